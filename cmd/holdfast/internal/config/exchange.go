package config

import "strconv"

// exchanges reads the exchanges of a queue, and refuses what contradicts itself.
func (w *walker) exchanges(v *value) []Exchange {
	var all []Exchange
	kinds := map[string]*value{} // of each exchange, where it is said
	for _, it := range items(v.fields["exchanges"]) {
		e := w.exchange(it)
		name := it.get("exchange")
		if name != nil && kinds[e.Name] != nil {
			w.fault(name.node, CodeDuplicate, "keep one of them", "exchange %q is already on line %d", e.Name, kinds[e.Name].Line())
		}
		if kind := it.get("kind"); kind != nil && kinds[e.Name] == nil {
			kinds[e.Name] = kind
		}
		all = append(all, e)
	}
	bound := items(v.fields["bindings"])
	for _, it := range items(v.fields["exchanges"]) {
		bound = append(bound, items(it.fields["bindings"])...)
		w.alternate(it, kinds)
	}
	for _, b := range bound {
		w.sameKind(b, kinds)
	}
	return all
}

func (w *walker) exchange(v *value) Exchange {
	e := Exchange{
		Name: v.get("exchange").str(), Kind: v.get("kind").str(), Alternate: v.get("alternate").str(),
		Internal: v.is("internal"), AutoDelete: v.is("auto_delete"), Transient: v.is("transient"),
	}
	if a := v.get("args"); a != nil {
		e.Args = a.table
	}
	for _, it := range items(v.fields["bindings"]) {
		b := w.binding(it)
		if b.Exchange == e.Name && e.Name != "" {
			w.fault(it.get("exchange").node, CodeContradicts, "name the exchange that messages come from", "exchange %q is bound to itself", e.Name)
		}
		e.Bindings = append(e.Bindings, b)
	}
	if e.Args["alternate-exchange"] != nil && v.has("alternate") {
		w.fault(v.fields["alternate"].key, CodeContradicts, "keep one of them", "the alternate of exchange %q is said twice", e.Name)
	}
	return e
}

// sameKind refuses a binding that gives an exchange another type than before.
func (w *walker) sameKind(b *value, kinds map[string]*value) {
	kind, name := b.get("kind"), b.get("exchange").str()
	if kind == nil || name == "" {
		return
	}
	first := kinds[name]
	if first == nil {
		kinds[name] = kind
		return
	}
	if first.text != kind.text {
		w.fault(kind.node, CodeContradicts, "write "+strconv.Quote(first.text)+", or leave kind out", "exchange %q is %s here and %s on line %d", name, kind.text, first.text, first.Line())
	}
}

// alternate looks at where an exchange sends what it cannot route. The broker takes
// a name that does not exist, and drops the messages.
func (w *walker) alternate(v *value, kinds map[string]*value) {
	a := v.get("alternate")
	switch {
	case a == nil:
	case a.text == v.get("exchange").str():
		w.fault(a.node, CodeContradicts, "name another exchange", "exchange %q is its own alternate", a.text)
	case kinds[a.text] == nil:
		w.warn(a.node, "add it to exchanges, with its kind, if it is not there already", "the alternate %q is not declared here; without it the broker drops what it confirmed", a.text)
	}
}
