-- autoincrement: an ID that was given out once never comes back, so that a
-- reader who pages by it misses nothing.
create table changefeed (
    id         integer primary key autoincrement,
    created_at timestamp default current_timestamp,
    gun        varchar(255) not null check (length(gun) <= 255),
    version    integer not null,
    sha256     char(64),
    category   varchar(20) not null default 'update' references change_category
);
create index idx_changefeed_gun on changefeed (gun);
insert into changefeed (created_at, gun, version, sha256)
    select created_at, gun, version, sha256 from tuf_files
    where role = 'timestamp' order by created_at, id;
