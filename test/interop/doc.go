// Package interop lets Knock federate with a server that others wrote: a real Synapse, run as a program, from a virtual
// environment that the test makes once in the user's cache directory. SYNAPSE_VENV names an environment to use instead.
// It needs Python 3.10 or newer with venv, and once the package registry; without them it is skipped and says so.
package interop
