-- Times are milliseconds since 1970-01-01 UTC; ids are text, compared byte by byte; contents are opaque to the store.

CREATE TABLE aggregates (
    id      TEXT   PRIMARY KEY,
    version BIGINT NOT NULL CHECK (version > 0),
    state   BLOB   NOT NULL,
    due     BIGINT,
    head    BLOB   NOT NULL
);
CREATE INDEX aggregates_by_due ON aggregates (due, id) WHERE due IS NOT NULL;

CREATE TABLE facts (
    position  INTEGER PRIMARY KEY,
    aggregate TEXT    NOT NULL,
    seq       BIGINT  NOT NULL,
    at        BIGINT  NOT NULL,
    cause     BLOB    NOT NULL,
    fact      BLOB    NOT NULL,
    hash      BLOB    NOT NULL
);
CREATE INDEX facts_by_aggregate ON facts (aggregate, position);

CREATE TABLE effects (
    id         TEXT   PRIMARY KEY,
    aggregate  TEXT   NOT NULL,
    lane       TEXT   NOT NULL CHECK (lane IN ('forward', 'rollback')),
    body       BLOB   NOT NULL,
    attempt    BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX effects_by_time ON effects (lane, not_before, id);

CREATE TABLE documents (
    id   TEXT PRIMARY KEY,
    body BLOB NOT NULL
);

CREATE TABLE meta (
    id    TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
