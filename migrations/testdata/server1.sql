-- The server's tables after the first of upstream's migrations, as pg_dump
-- describes them.
CREATE SEQUENCE tuf_files_id_seq AS integer;
CREATE TABLE tuf_files (
    id integer DEFAULT nextval('tuf_files_id_seq') NOT NULL,
    created_at timestamp without time zone,
    updated_at timestamp without time zone,
    deleted_at timestamp without time zone,
    gun character varying(255) NOT NULL,
    role character varying(255) NOT NULL,
    version integer NOT NULL,
    data bytea NOT NULL,
    sha256 character(64) DEFAULT NULL::bpchar
);
ALTER SEQUENCE tuf_files_id_seq OWNED BY tuf_files.id;
ALTER TABLE ONLY tuf_files ADD CONSTRAINT tuf_files_pkey PRIMARY KEY (id);
ALTER TABLE ONLY tuf_files ADD CONSTRAINT tuf_files_gun_role_version_key UNIQUE (gun, role, version);
CREATE INDEX tuf_files_sha256_idx ON tuf_files USING btree (sha256);
