-- The signer's table after upstream's migration, as pg_dump describes it.
CREATE SEQUENCE private_keys_id_seq AS integer;
CREATE TABLE private_keys (
    id integer DEFAULT nextval('private_keys_id_seq') NOT NULL,
    created_at timestamp without time zone,
    updated_at timestamp without time zone,
    deleted_at timestamp without time zone,
    key_id character varying(255) NOT NULL,
    encryption_alg character varying(255) NOT NULL,
    keywrap_alg character varying(255) NOT NULL,
    algorithm character varying(50) NOT NULL,
    passphrase_alias character varying(50) NOT NULL,
    public bytea NOT NULL,
    private bytea NOT NULL,
    gun character varying(255) NOT NULL,
    role character varying(255) NOT NULL,
    last_used timestamp without time zone
);
ALTER SEQUENCE private_keys_id_seq OWNED BY private_keys.id;
ALTER TABLE ONLY private_keys ADD CONSTRAINT private_keys_pkey PRIMARY KEY (id);
ALTER TABLE ONLY private_keys ADD CONSTRAINT key_id UNIQUE (key_id);
ALTER TABLE ONLY private_keys ADD CONSTRAINT key_id_2 UNIQUE (key_id, algorithm);
