create table change_category (
    category varchar(20) primary key
);
insert into change_category (category) values ('update'), ('deletion');
