create table changefeed (
    id         serial primary key,
    created_at timestamp default current_timestamp,
    gun        varchar(255) not null,
    version    integer not null,
    sha256     char(64) default null,
    category   varchar(20) not null default 'update' references change_category
);
create index idx_changefeed_gun on changefeed (gun);
-- A database that is older than the feed gets one entry for each timestamp it holds.
insert into changefeed (created_at, gun, version, sha256)
    select created_at, gun, version, sha256 from tuf_files
    where role = 'timestamp' order by created_at, id;
