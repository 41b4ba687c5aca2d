create index countersign_unused_key on private_keys (gun, role, algorithm, key_id)
    where last_used is null and deleted_at is null;
