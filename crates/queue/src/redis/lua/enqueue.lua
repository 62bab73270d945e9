-- Puts jobs at the end of their queues.
-- ARGV: prefix, most jobs per queue, time as RQ writes it, then per job: queue, id, generation, data,
-- description, timeout in seconds, data of the continuation ('' when our workers run the queue).
-- Answers per job: queued, duplicate or full.

-- Whether the job that Redis knows is really somewhere, so that nothing has to be pushed.
local function held(queue, id, job)
    local status, at, exec = job[2], tonumber(job[3] or ''), job[4]
    if status == 'queued' then
        local head = redis.call('LINDEX', LIST(queue), 0)
        if head == id then return true end
        local head_at = head and tonumber(redis.call('HGET', JOB(head), 'dw_at') or '')
        -- Older jobs are still before it: it cannot have been passed over yet. Cheap, and the rule.
        if head_at and at and head_at < at then return true end
        return (redis.call('LPOS', LIST(queue), id) or redis.call('LPOS', PARKED(queue), id)) and true or false
    elseif status == 'started' then
        if exec and redis.call('ZSCORE', WIP(queue), id .. ':' .. exec) then return true end
        return redis.call('EXISTS', EXECUTIONS(id)) == 1
    elseif status == 'scheduled' then
        return redis.call('ZSCORE', REGISTRY('scheduled', queue), id) and true or false
    end
    return false
end

local function forget(queue, id, job)
    if job[2] == 'queued' then redis.call('LREM', LIST(queue), 0, id) end
    if job[4] then redis.call('ZREM', WIP(queue), id .. ':' .. job[4]) end
    for _, name in ipairs({'failed', 'finished', 'canceled', 'scheduled'}) do
        redis.call('ZREM', REGISTRY(name, queue), id)
    end
    redis.call('DEL', JOB(id), RESULTS(id), DEPENDENTS(id))
end

-- A job that a stock worker will finish gets a dependent: RQ itself then queues it for us.
local function continue(id, data, iso, at)
    local next = 'resume-' .. id
    redis.call('LREM', LIST(RESUME), 0, next)
    redis.call('DEL', JOB(next))
    redis.call('HSET', JOB(next), 'data', data, 'origin', RESUME, 'status', 'deferred', 'dependency_id', id,
        'dependency_ids', '["' .. id .. '"]', 'allow_dependency_failures', 1, 'timeout', 60, 'created_at', iso,
        'description', 'outcome of ' .. id)
    redis.call('ZADD', REGISTRY('deferred', RESUME), at, next)
    redis.call('SADD', DEPENDENTS(id), next)
    redis.call('SADD', DEPENDENCIES(next), id)
    redis.call('SADD', QUEUES, LIST(RESUME))
end

-- A stock worker ended the job and its continuation is gone, or was never fired (a stopped job).
local function remind(id, data, iso, at)
    local next = 'resume-' .. id
    if redis.call('LPOS', LIST(RESUME), next) or redis.call('HGET', JOB(next), 'status') == 'started' then return end
    redis.call('HSET', JOB(next), 'data', data, 'origin', RESUME, 'status', 'queued', 'timeout', 60, 'created_at', iso)
    redis.call('ZREM', REGISTRY('deferred', RESUME), next)
    redis.call('RPUSH', LIST(RESUME), next)
end

local most, iso, answers = tonumber(ARGV[2]), ARGV[3], {}
local time = now()
for n = 4, #ARGV, 7 do
    local queue, id, generation, data = ARGV[n], ARGV[n + 1], ARGV[n + 2], ARGV[n + 3]
    local what, timeout, resume = ARGV[n + 4], ARGV[n + 5], ARGV[n + 6]
    local job = redis.call('HMGET', JOB(id), 'dw_gen', 'status', 'dw_at', 'dw_exec')
    local answer = 'queued'
    if job[1] and tonumber(job[1]) >= tonumber(generation) then
        local ended = job[2] == 'finished' or job[2] == 'failed' or job[2] == 'stopped' or job[2] == 'canceled'
        if tonumber(job[1]) > tonumber(generation) or held(queue, id, job) then
            answer = 'duplicate'
        elseif resume ~= '' and ended then
            remind(id, resume, iso, time)
            answer = 'duplicate'
        end
    end
    if answer == 'queued' and redis.call('LLEN', LIST(queue)) >= most then answer = 'full' end
    if answer == 'queued' then
        if job[2] then forget(queue, id, job) end
        if resume ~= '' then continue(id, resume, iso, time) end
        redis.call('HSET', JOB(id), 'data', data, 'origin', queue, 'status', 'queued', 'created_at', iso,
            'enqueued_at', iso, 'description', what, 'timeout', timeout, 'failure_ttl', 86400, 'dw_gen', generation, 'dw_at', instant(time))
        -- RQ's tools put an expired job back instead of failing it. What stock workers fail, we are to hear of.
        if resume == '' then redis.call('HSET', JOB(id), 'retries_left', 3) end
        redis.call('SADD', QUEUES, LIST(queue))
        redis.call('RPUSH', LIST(queue), id)
        knock(queue)
    end
    answers[#answers + 1] = answer
end
return answers
