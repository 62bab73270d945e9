-- Ends leases, in one of four ways. Only who still holds one may.
-- ARGV: prefix, worker, then per lease: queue, id, token, way ('done', 'front', 'back', 'refused'), text.
-- Answers per lease: 1 done, 0 lost.
local worker, answers = ARGV[2], {}
local done, refused = 0, 0
for n = 3, #ARGV, 5 do
    local queue, id, exec, way, text = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3], ARGV[n + 4]
    local held = redis.call('ZREM', WIP(queue), id .. ':' .. exec)
    if held == 1 and redis.call('HGET', JOB(id), 'dw_exec') ~= exec then held = 0 end
    if held == 1 and way == 'done' then
        local next = 'resume-' .. id
        if redis.call('EXISTS', DEPENDENTS(id)) == 1 then
            redis.call('DEL', DEPENDENTS(id), DEPENDENCIES(next), JOB(next))
            redis.call('ZREM', REGISTRY('deferred', RESUME), next)
        end
        redis.call('DEL', JOB(id), DEPENDENCIES(id))
        done = done + 1
    elseif held == 1 and way == 'refused' then
        redis.call('HSET', JOB(id), 'status', 'failed', 'ended_at', text)
        redis.call('HDEL', JOB(id), 'dw_exec')
        redis.call('ZADD', REGISTRY('failed', queue), instant(now() + 86400), id)
        redis.call('EXPIRE', JOB(id), 86400)
        refused = refused + 1
    elseif held == 1 then
        redis.call('HSET', JOB(id), 'status', 'queued')
        redis.call('HDEL', JOB(id), 'dw_exec')
        redis.call('HINCRBY', JOB(id), 'dw_attempt', -1)
        if way == 'front' then
            redis.call('LPUSH', LIST(queue), id)
        else
            -- It stands behind all others now, and the look for lost jobs goes by that.
            redis.call('HSET', JOB(id), 'dw_at', instant(now()))
            redis.call('RPUSH', LIST(queue), id)
        end
        knock(queue)
    end
    answers[#answers + 1] = held
end
if done + refused > 0 and redis.call('EXISTS', WORKER(worker)) == 1 then
    redis.call('HINCRBY', WORKER(worker), 'successful_job_count', done)
    redis.call('HINCRBY', WORKER(worker), 'failed_job_count', refused)
end
return answers
