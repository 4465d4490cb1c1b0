-- How many events of one server wait is asked each time some are queued (roomserver).
CREATE INDEX inbound_origin ON inbound (origin, room);
