-- Takes jobs from the heads of queues and leases them, in one step: there is no moment at which a job is
-- neither queued nor leased.
-- ARGV: prefix, worker, most jobs, lease in seconds, time as RQ writes it, token, queues in their order.
-- Answers per job: queue, id, generation, data, token, how often it was handed out. 0 when suspended.
if redis.call('EXISTS', SUSPENDED) == 1 then return 0 end
local worker, room, lease, iso, token = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local time, taken = now(), {}
for n = 7, #ARGV do
    local queue = ARGV[n]
    while #taken < room do
        local id = redis.call('LPOP', LIST(queue))
        if not id then break end
        local job = redis.call('HMGET', JOB(id), 'status', 'dw_gen', 'data', 'worker_name')
        -- A second entry of a job that runs, a cancelled one, one whose hash has expired: dropped.
        if job[3] and (job[1] == 'queued' or job[1] == 'created' or not job[1]) then
            local exec = token .. string.format('%04x', #taken)
            redis.call('ZADD', WIP(queue), instant(time + lease), id .. ':' .. exec)
            local count = redis.call('HINCRBY', JOB(id), 'dw_attempt', 1)
            redis.call('HSET', JOB(id), 'status', 'started', 'started_at', iso, 'worker_name', worker, 'dw_exec', exec)
            redis.call('PERSIST', JOB(id))
            taken[#taken + 1] = {queue, id, job[2] or '0', job[3], exec, tostring(count)}
        end
    end
end
for n = 7, #ARGV do
    local queue = ARGV[n]
    if redis.call('EXISTS', LIST(queue)) == 1 then knock(queue) else redis.call('DEL', KNOCK(queue)) end
end
-- Its heartbeat says so later; people look now.
if #taken > 0 and redis.call('EXISTS', WORKER(worker)) == 1 then redis.call('HSET', WORKER(worker), 'state', 'busy') end
return taken
