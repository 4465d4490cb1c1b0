// Package mediaapi owns media: what users upload, what other servers' users uploaded and we cached, and thumbnails of
// both, with the doors to them: client (authenticated and the frozen old endpoints) and federation. Contents are
// files (mediaapi/files), facts are rows. An upload is answered after its content and its row are durable, in this
// order: temporary file, flush, rename, flush of the directory, row, answer; so there is never a row without a file,
// and the files without a row are collected when they are a day old.
//
// Specification: Client-Server API "Content repository", Server-Server API "Content Repository".
package mediaapi
