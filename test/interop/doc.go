// Package interop owns the tests in which Knock federates with a server that others wrote: a real Synapse, run as a
// program, from a virtual environment that the test makes once in the user's cache directory. They run with
// KNOCK_TEST_INTEROP=1 (make test, make interop); SYNAPSE_VENV names an environment to use instead. They need Python 3.10 or newer
// with venv, and once the package registry; without them they are skipped and say so.
//
// What Synapse does not do is left out, with a comment at the place: it neither tells a user's server that their knock
// was turned away nor takes that from another, takes a knock back at home only, and leaves the event just before a
// fetched one out of its context.
package interop
