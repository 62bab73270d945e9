-- Shows a worker to RQ's tools. ARGV: prefix, name, time to live in seconds, queues with commas, then its
-- fields and values.
local name = ARGV[2]
redis.call('HSET', WORKER(name), 'queues', ARGV[4], unpack(ARGV, 5))
redis.call('EXPIRE', WORKER(name), ARGV[3])
redis.call('SADD', WORKERS, WORKER(name))
for queue in string.gmatch(ARGV[4], '[^,]+') do redis.call('SADD', SERVING(queue), WORKER(name)) end
return 1
