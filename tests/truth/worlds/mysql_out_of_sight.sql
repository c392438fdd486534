-- Writes that no text shows: only the read path stops them.
CREATE VIEW v_writer AS SELECT w() AS n;
