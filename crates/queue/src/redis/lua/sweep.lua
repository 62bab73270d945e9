-- What time asks for: leases that have expired, jobs that a dead stock worker left parked, a Redis that has
-- lost everything, queues that nobody needs any more.
-- ARGV: prefix, most jobs at once, most reaps of a job, seconds until a parked job is taken back, new epoch,
-- queues that stock workers serve.
-- Answers: epoch, whether it is new, jobs put back, jobs given up.
local limit, most, grace = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local time, back, dead, stock = now(), 0, 0, {}
for n = 6, #ARGV do stock[ARGV[n]] = true end
local fresh = redis.call('SET', EPOCH, ARGV[5], 'NX') and 1 or 0

local function put_back(queue, id)
    redis.call('HSET', JOB(id), 'status', 'queued')
    redis.call('HDEL', JOB(id), 'dw_exec')
    redis.call('LPUSH', LIST(queue), id)
    knock(queue)
    back = back + 1
end

-- Whether nothing is left of a queue, and nobody serves it.
local function is_dead(queue)
    if stock[queue] then return false end
    redis.call('ZREMRANGEBYSCORE', REGISTRY('failed', queue), '-inf', instant(time))
    local left = redis.call('EXISTS', LIST(queue), PARKED(queue), WIP(queue), SERVING(queue))
    for _, name in ipairs({'failed', 'finished', 'canceled', 'scheduled', 'deferred'}) do
        left = left + redis.call('EXISTS', REGISTRY(name, queue))
    end
    return left == 0
end

for _, key in ipairs(redis.call('SMEMBERS', QUEUES)) do
    local queue = string.sub(key, #LIST('') + 1)
    if is_dead(queue) then
        redis.call('SREM', QUEUES, key)
        redis.call('DEL', KNOCK(queue), CLEANING(queue), SEEN(queue))
    elseif not stock[queue] then
        -- While we reap here, stock workers leave our leases alone.
        redis.call('SET', CLEANING(queue), 1, 'EX', 899)
    end
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', WIP(queue), '-inf', instant(time), 'LIMIT', 0, limit)) do
        local id, exec = string.match(member, '^(.*):([^:]*)$')
        local job = redis.call('HMGET', JOB(id), 'status', 'dw_exec')
        if job[1] == 'started' and job[2] == exec then
            redis.call('ZREM', WIP(queue), member)
            if redis.call('HINCRBY', JOB(id), 'dw_reaps', 1) > most then
                redis.call('HSET', JOB(id), 'status', 'failed')
                redis.call('HDEL', JOB(id), 'dw_exec')
                redis.call('ZADD', REGISTRY('failed', queue), instant(time + 86400), id)
                redis.call('EXPIRE', JOB(id), 86400)
                dead = dead + 1
            else
                put_back(queue, id)
            end
        elseif job[2] or not job[1] then
            redis.call('ZREM', WIP(queue), member)
        end
    end
    for _, id in ipairs(redis.call('LRANGE', PARKED(queue), 0, limit - 1)) do
        redis.call('ZADD', SEEN(queue), 'NX', instant(time), id)
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', SEEN(queue), '-inf', instant(time - grace), 'LIMIT', 0, limit)) do
        redis.call('ZREM', SEEN(queue), id)
        if redis.call('LREM', PARKED(queue), 1, id) == 1 and redis.call('HGET', JOB(id), 'status') == 'queued' then
            put_back(queue, id)
        end
    end
end
-- RQ 3 queues a continuation in two steps. Two of its workers at once get in each other's way at the second,
-- and leave it to a maintenance that is minutes away.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', REGISTRY('ready', RESUME), '-inf', time - 1, 'LIMIT', 0, limit)) do
    redis.call('ZREM', REGISTRY('ready', RESUME), id)
    if redis.call('EXISTS', JOB(id)) == 1 then
        redis.call('HSET', JOB(id), 'status', 'queued')
        redis.call('RPUSH', LIST(RESUME), id)
    end
end
return {redis.call('GET', EPOCH), fresh, back, dead}
