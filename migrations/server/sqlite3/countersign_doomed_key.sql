create table countersign_doomed_key (
    gun    varchar(255) not null,
    key_id varchar(255) not null,
    role   varchar(255) not null,
    primary key (gun, key_id, role)
);
