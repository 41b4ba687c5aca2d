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
-- What upstream's second migration adds, as pg_dump describes it.
CREATE TABLE change_category (category character varying(20) NOT NULL);
INSERT INTO change_category (category) VALUES ('update'), ('deletion');
CREATE SEQUENCE changefeed_id_seq AS integer;
CREATE TABLE changefeed (
    id integer DEFAULT nextval('changefeed_id_seq') NOT NULL,
    created_at timestamp without time zone DEFAULT CURRENT_TIMESTAMP,
    gun character varying(255) NOT NULL,
    version integer NOT NULL,
    sha256 character(64) DEFAULT NULL::bpchar,
    category character varying(20) DEFAULT 'update'::character varying NOT NULL
);
ALTER SEQUENCE changefeed_id_seq OWNED BY changefeed.id;
ALTER TABLE ONLY change_category ADD CONSTRAINT change_category_pkey PRIMARY KEY (category);
ALTER TABLE ONLY changefeed ADD CONSTRAINT changefeed_pkey PRIMARY KEY (id);
CREATE INDEX idx_changefeed_gun ON changefeed USING btree (gun);
ALTER TABLE ONLY changefeed ADD CONSTRAINT changefeed_category_fkey FOREIGN KEY (category) REFERENCES change_category(category);
