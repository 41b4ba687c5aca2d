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
-- Who may delete, or was tricked into it, must not be able to hide it. The owner
-- can drop this trigger; an operator who wants to be safe from the program's own
-- role makes the table under another one, and grants insert and select.
create or replace function countersign_audit_append_only() returns trigger language plpgsql set search_path = pg_catalog as $body$
begin
    raise insufficient_privilege using message = 'the audit log can only be added to';
end
$body$;
create trigger countersign_audit_append_only before update or delete or truncate on countersign_audit
    for each statement execute procedure countersign_audit_append_only();
