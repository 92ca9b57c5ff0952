-- Which exceptions belong to which order, by the evidence of what opened or was raised. What was written before this has none until it
-- is raised.
CREATE TABLE exception_orders (
    exception BIGINT NOT NULL,
    order_id TEXT NOT NULL,
    PRIMARY KEY (exception, order_id)
);
CREATE INDEX exception_orders_order ON exception_orders (order_id);

-- Few stand of the gravest severity among very many of others.
CREATE INDEX exceptions_severity ON exceptions (severity, exception) WHERE state <> 'resolved';
-- What exceptions_group leaves out.
CREATE INDEX exceptions_group_ended ON exceptions (group_id) WHERE state = 'resolved';
