-- Removes a job that waits. ARGV: prefix, queue, id. Answers 1 when it did wait.
local queue, id = ARGV[2], ARGV[3]
if redis.call('HGET', JOB(id), 'status') ~= 'queued' then return 0 end
redis.call('LREM', LIST(queue), 0, id)
redis.call('LREM', PARKED(queue), 0, id)
local next = 'resume-' .. id
redis.call('ZREM', REGISTRY('deferred', RESUME), next)
redis.call('DEL', JOB(id), DEPENDENTS(id), JOB(next), DEPENDENCIES(next))
return 1
