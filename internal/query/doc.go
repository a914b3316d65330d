// Package query is how flows are asked for, by the command line, the API and
// the web UI alike: the filter and its textual form, the cursor of a page, and
// what a read answers. It does no I/O; internal/store runs what it describes.
//
// A filter is conditions separated by spaces, all of which must hold:
//
//	from.namespace=shop to.port=443,8000-8100 verdict=audited,dropped -to.label=tier=db
//
// One condition holds for any of its values. A minus in front of it, or != in
// place of =, turns it round. Fields of an end are asked of the initiator
// (from.), of the responder (to.), or of either; those of a slot of the live
// one (live.), the staged one (staged.), or either. A port without a side is
// the responder's. A label is key=value, key!=value (also where there is no such
// label), or key alone; all labels without a side are met by one end, whichever,
// and those of conditions that are turned round by neither. A value with spaces,
// commas or quotes stands in double quotes, in which \ takes the next character as
// it is.
package query
