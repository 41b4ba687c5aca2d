create table countersign_audit (
    id         bigserial primary key,
    at         timestamp not null,
    action     varchar(20) not null,
    gun        varchar(255) not null default '',
    actor      varchar(300) not null default '',
    request_id varchar(128) not null default '',
    roles      text not null default '',
    reason     text not null default ''
);
create index countersign_audit_gun_idx on countersign_audit (gun, id);
