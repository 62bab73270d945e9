ALTER TABLE versions DROP COLUMN files;
ALTER TABLE workflows DROP COLUMN files;
ALTER TABLE origins DROP COLUMN files;
