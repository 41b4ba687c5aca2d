create table countersign_doomed_key (
    key_id varchar(255) not null primary key,
    gun    varchar(255) not null,
    role   varchar(255) not null
);
