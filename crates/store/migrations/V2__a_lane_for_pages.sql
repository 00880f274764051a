-- Pages wait in a lane of their own. Those that wait already stay in the lane that they are in, and are delivered from there.

CREATE TABLE effects_by_lane (
    id         TEXT   PRIMARY KEY,
    aggregate  TEXT   NOT NULL,
    lane       TEXT   NOT NULL CHECK (lane IN ('forward', 'rollback', 'page')),
    body       BLOB   NOT NULL,
    attempt    BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
INSERT INTO effects_by_lane SELECT id, aggregate, lane, body, attempt, not_before, created_at FROM effects;
DROP TABLE effects;
ALTER TABLE effects_by_lane RENAME TO effects;
CREATE INDEX effects_by_time ON effects (lane, not_before, id);
