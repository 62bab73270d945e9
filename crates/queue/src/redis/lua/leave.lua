-- Takes a worker away. ARGV: prefix, name, queues with commas.
redis.call('SREM', WORKERS, WORKER(ARGV[2]))
for queue in string.gmatch(ARGV[3], '[^,]+') do redis.call('SREM', SERVING(queue), WORKER(ARGV[2])) end
redis.call('DEL', WORKER(ARGV[2]))
return 1
