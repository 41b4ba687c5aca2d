create table countersign_audit (
    id         integer primary key autoincrement,
    at         timestamp not null,
    action     varchar(20) not null,
    gun        varchar(255) not null default '',
    actor      varchar(300) not null default '',
    request_id varchar(128) not null default '',
    roles      text not null default '',
    reason     text not null default ''
);
create index countersign_audit_gun_idx on countersign_audit (gun, id);
-- Who may delete, or was tricked into it, must not be able to hide it.
create trigger countersign_audit_update before update on countersign_audit
begin select raise(abort, 'the audit log can only be added to'); end;
create trigger countersign_audit_delete before delete on countersign_audit
begin select raise(abort, 'the audit log can only be added to'); end;
