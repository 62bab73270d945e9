DROP TABLE logs;
DROP TABLE attempts;
DROP TABLE calls;
DROP TABLE origins;
DROP TABLE executions;
DROP TABLE sources;
