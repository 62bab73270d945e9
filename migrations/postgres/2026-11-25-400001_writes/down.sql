DROP TABLE secrets;
DROP TABLE writers;
