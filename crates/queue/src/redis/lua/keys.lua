-- Put before every script. ARGV[1] is the prefix, KEYS[1] any key under it, for the cluster's routing.
-- The same names as in keys.rs.
local P = ARGV[1]
local QUEUES, WORKERS, SUSPENDED = P .. ':queues', P .. ':workers', P .. ':suspended'
local EPOCH, RESUME = P .. ':dw:epoch', 'durable-resume'
local function LIST(queue) return P .. ':queue:' .. queue end
local function PARKED(queue) return P .. ':queue:' .. queue .. ':intermediate' end
local function JOB(id) return P .. ':job:' .. id end
local function DEPENDENTS(id) return P .. ':job:' .. id .. ':dependents' end
local function DEPENDENCIES(id) return P .. ':job::' .. id .. ':dependencies' end
local function RESULTS(id) return P .. ':results:' .. id end
local function EXECUTIONS(id) return P .. ':executions:' .. id end
local function WIP(queue) return P .. ':wip:' .. queue end
local function REGISTRY(name, queue) return P .. ':' .. name .. ':' .. queue end
local function WORKER(name) return P .. ':worker:' .. name end
local function SERVING(queue) return P .. ':workers:' .. queue end
local function SEEN(queue) return P .. ':dw:seen:' .. queue end
local function CLEANING(queue) return P .. ':clean_registries:' .. queue end

local function KNOCK(queue) return P .. ':dw:knock:' .. queue end

-- Wakes one worker. It takes what it has room for and wakes the next if something is left.
local function knock(queue)
    if redis.call('EXISTS', KNOCK(queue)) == 0 then redis.call('RPUSH', KNOCK(queue), 1) end
end

local function now()
    local time = redis.call('TIME')
    return tonumber(time[1]) + tonumber(time[2]) / 1000000
end

-- As text: Lua would shorten large numbers.
local function instant(seconds) return string.format('%.6f', seconds) end
