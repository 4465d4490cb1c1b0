// Package e2ee owns what end-to-end encryption needs from a server: device keys, one-time and fallback keys,
// cross-signing keys and signatures, device lists, messages to devices, key backups and dehydrated devices. It is the
// only reader and writer of the tables in 0009_e2ee.sql.
//
// Who is joined where is asked of Rooms, which devices exist of Accounts, both inside the transaction that needs to
// know. What other servers must hear is kept in the outbox, in the transaction that causes it; the federation sender
// drains it with PendingEDUs and Delivered.
package e2ee
