-- Moved from MySQL 5.7 by pgloader: a schema named as the database was, times with a zone, bigint, its names of indexes and keys.
CREATE SCHEMA notaryserver;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = notaryserver, public', current_database()); END $$;
SET search_path = notaryserver, public;
CREATE TABLE tuf_files (
    id bigserial NOT NULL,
    created_at timestamptz DEFAULT NULL,
    updated_at timestamptz DEFAULT NULL,
    deleted_at timestamptz DEFAULT NULL,
    gun varchar(255) NOT NULL,
    role varchar(255) NOT NULL,
    version bigint NOT NULL,
    data bytea NOT NULL,
    sha256 text DEFAULT NULL
);
CREATE UNIQUE INDEX idx_16395_primary ON tuf_files (id);
ALTER TABLE tuf_files ADD PRIMARY KEY USING INDEX idx_16395_primary;
CREATE UNIQUE INDEX idx_16395_gun ON tuf_files (gun, role, version);
CREATE INDEX idx_16395_sha256 ON tuf_files (sha256);
CREATE TABLE change_category (category varchar(20) NOT NULL);
CREATE UNIQUE INDEX idx_16385_primary ON change_category (category);
ALTER TABLE change_category ADD PRIMARY KEY USING INDEX idx_16385_primary;
INSERT INTO change_category VALUES ('update'), ('deletion');
CREATE SEQUENCE changefeed_id_seq;
CREATE TABLE changefeed (
    id bigint NOT NULL DEFAULT nextval('changefeed_id_seq'),
    created_at timestamptz DEFAULT CURRENT_TIMESTAMP,
    gun varchar(255) NOT NULL,
    version bigint NOT NULL,
    sha256 text DEFAULT NULL,
    category varchar(20) NOT NULL DEFAULT 'update'
);
CREATE UNIQUE INDEX idx_16388_primary ON changefeed (id);
ALTER TABLE changefeed ADD PRIMARY KEY USING INDEX idx_16388_primary;
CREATE INDEX idx_16388_idx_changefeed_gun ON changefeed (gun);
CREATE INDEX idx_16388_category ON changefeed (category);
ALTER TABLE changefeed ADD CONSTRAINT changefeed_ibfk_1 FOREIGN KEY (category) REFERENCES change_category (category) ON UPDATE RESTRICT ON DELETE RESTRICT;
CREATE TABLE schema_migrations (version bigint NOT NULL, dirty boolean NOT NULL);
CREATE UNIQUE INDEX idx_16391_primary ON schema_migrations (version);
ALTER TABLE schema_migrations ADD PRIMARY KEY USING INDEX idx_16391_primary;
INSERT INTO schema_migrations VALUES (5, false);
