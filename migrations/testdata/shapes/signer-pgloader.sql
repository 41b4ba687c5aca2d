-- Moved from MySQL 5.7 by pgloader, as the server's.
CREATE SCHEMA notarysigner;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = notarysigner, public', current_database()); END $$;
SET search_path = notarysigner, public;
CREATE TABLE private_keys (
    id bigserial NOT NULL,
    created_at timestamptz DEFAULT NULL,
    updated_at timestamptz DEFAULT NULL,
    deleted_at timestamptz DEFAULT NULL,
    key_id varchar(255) NOT NULL,
    encryption_alg varchar(255) NOT NULL,
    keywrap_alg varchar(255) NOT NULL,
    algorithm varchar(50) NOT NULL,
    passphrase_alias varchar(50) NOT NULL,
    public bytea NOT NULL,
    private bytea NOT NULL,
    gun varchar(255) NOT NULL,
    role varchar(255) NOT NULL,
    last_used timestamptz DEFAULT NULL
);
CREATE UNIQUE INDEX idx_16385_primary ON private_keys (id);
ALTER TABLE private_keys ADD PRIMARY KEY USING INDEX idx_16385_primary;
CREATE UNIQUE INDEX idx_16385_key_id ON private_keys (key_id);
CREATE UNIQUE INDEX idx_16385_key_id_2 ON private_keys (key_id, algorithm);
CREATE TABLE schema_migrations (version bigint NOT NULL, dirty boolean NOT NULL);
CREATE UNIQUE INDEX idx_16388_primary ON schema_migrations (version);
ALTER TABLE schema_migrations ADD PRIMARY KEY USING INDEX idx_16388_primary;
INSERT INTO schema_migrations VALUES (2, false);
