ALTER TABLE workflows DROP COLUMN allowed;
ALTER TABLE origins DROP COLUMN allowed;
