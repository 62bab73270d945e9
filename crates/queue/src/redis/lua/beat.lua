-- Renews leases.
-- ARGV: prefix, lease in seconds, then per lease: queue, id, token. Answers per lease: 1 renewed, 0 lost.
local expires, answers = instant(now() + tonumber(ARGV[2])), {}
for n = 3, #ARGV, 3 do
    local queue, member = ARGV[n], ARGV[n + 1] .. ':' .. ARGV[n + 2]
    if redis.call('ZSCORE', WIP(queue), member) then
        redis.call('ZADD', WIP(queue), 'XX', expires, member)
        answers[#answers + 1] = 1
    else
        answers[#answers + 1] = 0
    end
end
return answers
