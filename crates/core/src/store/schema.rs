//! The tables, as Diesel sees them. The SQL, with its comments, is in `migrations/`.

diesel::table! {
    sources (hash) { hash -> Text, code -> Text, kept_at -> BigInt, }
}

diesel::table! {
    bundles (id, hash, uses) { id -> Text, hash -> Text, uses -> Bool, }
}

diesel::table! {
    executions (id) {
        id -> Text,
        workflow -> Text,
        source_hash -> Text,
        queue -> Text,
        status -> Text,
        suspension -> BigInt,
        epoch -> BigInt,
        claimed_by -> Nullable<Text>,
        runner -> Nullable<Text>,
        due_at -> Nullable<BigInt>,
        snapshot -> Nullable<Binary>,
        snapshot_format -> Nullable<Text>,
        output -> Nullable<Text>,
        error -> Nullable<Text>,
        created_at -> BigInt,
        started_at -> Nullable<BigInt>,
        updated_at -> BigInt,
        finished_at -> Nullable<BigInt>,
        held -> Bool,
        cancel_requested_at -> Nullable<BigInt>,
        cancel_told -> Bool,
        deadline_at -> Nullable<BigInt>,
        parent_execution_id -> Nullable<Text>,
        parent_call_id -> Nullable<BigInt>,
        progress -> Nullable<Text>,
        claims -> BigInt,
        used -> Nullable<Text>,
        depth -> BigInt,
        root -> Nullable<Text>,
        log_bytes -> BigInt,
    }
}

diesel::table! {
    origins (execution_id) {
        execution_id -> Text,
        inputs -> Text,
        launch -> Nullable<Text>,
        base_snapshot -> Nullable<Binary>,
        base_format -> Nullable<Text>,
        secret -> Nullable<Text>,
        forked_from -> Nullable<Text>,
        forked_at -> Nullable<BigInt>,
        first_call -> BigInt,
        inputs_anew -> Nullable<Text>,
        files -> Nullable<Text>,
        allowed -> Nullable<Text>,
    }
}

diesel::table! {
    calls (execution_id, call_id) {
        execution_id -> Text,
        call_id -> BigInt,
        resume_group -> BigInt,
        kind -> Text,
        function -> Text,
        args -> Text,
        kwargs -> Text,
        line -> Nullable<BigInt>,
        queue -> Text,
        status -> Text,
        wake_group -> Nullable<BigInt>,
        attempt -> BigInt,
        worker -> Nullable<Text>,
        result -> Nullable<Text>,
        error -> Nullable<Text>,
        delivered_in -> Nullable<BigInt>,
        due_at -> Nullable<BigInt>,
        created_at -> BigInt,
        started_at -> Nullable<BigInt>,
        completed_at -> Nullable<BigInt>,
        queued -> Bool,
        options -> Nullable<Text>,
        deadline_at -> Nullable<BigInt>,
        forgiven -> BigInt,
        progress -> Nullable<Text>,
        ended_at -> Nullable<BigInt>,
        lost -> BigInt,
    }
}

diesel::table! {
    signals (id) {
        id -> BigInt,
        execution_id -> Text,
        name -> Text,
        payload -> Text,
        dedupe_key -> Nullable<Text>,
        sent_at -> BigInt,
        call_id -> Nullable<BigInt>,
    }
}

diesel::table! {
    workflows (name, version) {
        name -> Text,
        version -> BigInt,
        file -> Text,
        source_hash -> Text,
        created_at -> BigInt,
        files -> Nullable<Text>,
        allowed -> Nullable<Text>,
    }
}

diesel::table! {
    snapshots (execution_id, suspension) {
        execution_id -> Text,
        suspension -> BigInt,
        epoch -> BigInt,
        snapshot -> Binary,
        snapshot_format -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    versions (execution_id, number) {
        execution_id -> Text,
        number -> BigInt,
        workflow -> Text,
        source_hash -> Text,
        base_snapshot -> Nullable<Binary>,
        base_format -> Nullable<Text>,
        until_pause -> BigInt,
        until_at -> BigInt,
        files -> Nullable<Text>,
    }
}

diesel::table! {
    attempts (execution_id, call_id, number) {
        execution_id -> Text,
        call_id -> BigInt,
        number -> BigInt,
        worker -> Nullable<Text>,
        error -> Text,
        lost -> Bool,
        started_at -> Nullable<BigInt>,
        finished_at -> BigInt,
    }
}

diesel::table! {
    logs (id) {
        id -> BigInt,
        execution_id -> Text,
        call_id -> Nullable<BigInt>,
        attempt -> Nullable<BigInt>,
        stream -> Text,
        text -> Text,
        at -> BigInt,
    }
}

diesel::table! {
    workers (name) {
        name -> Text,
        host -> Text,
        pid -> BigInt,
        queues -> Text,
        functions -> Text,
        concurrency -> BigInt,
        started_at -> BigInt,
        due_at -> BigInt,
    }
}

diesel::table! {
    callbacks (token) {
        token -> Text,
        execution_id -> Text,
        call_id -> BigInt,
        attempt -> BigInt,
        created_at -> BigInt,
    }
}

diesel::joinable!(calls -> executions (execution_id));
diesel::joinable!(origins -> executions (execution_id));

diesel::allow_tables_to_appear_in_same_query!(
    sources, bundles, executions, origins, calls, attempts, logs, workers, callbacks, signals, workflows, snapshots,
    versions
);

diesel::table! {
    secrets (name) {
        name -> Text,
        value -> Text,
    }
}
