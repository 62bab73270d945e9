-- What an execution, or those that a deployed workflow begins, may do: lists of functions, queues and children, as JSON.
-- Null where nothing was said: everything that is offered.
ALTER TABLE origins ADD COLUMN allowed TEXT;
ALTER TABLE workflows ADD COLUMN allowed TEXT;

-- Executions from before there were secrets. Those that have begun keep none, so that a state that is made again is the same;
-- they make no callbacks.
UPDATE origins SET secret = gen_random_uuid()::text || gen_random_uuid()::text
    WHERE coalesce(secret, '') = ''
    AND execution_id IN (SELECT id FROM executions WHERE suspension = 0 AND status IN ('scheduled', 'paused'));
