package config

import (
	"bytes"
	"encoding/json"
)

// SchemaID is where the published schema says it can be found.
const SchemaID = "https://holdfast-go.github.io/holdfast/holdfast.schema.json"

const (
	durationForm  = `^([0-9]+d)?([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))*$`
	percentForm   = `^[0-9]+(\.[0-9]+)?%$`
	referenceForm = `\$\{[^}]+\}`
)

// Schema returns the JSON Schema of the file, as editors read it. It is made
// from the description that the reader itself uses.
func Schema() []byte {
	root := fileShape().schema()
	ordered := append(props{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", SchemaID},
		{"title", "holdfast.yaml"},
	}, root...)
	ordered = append(ordered, prop{"patternProperties", props{{"^x-", props{}}}})
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(ordered); err != nil {
		return nil // only strings, numbers and objects made here are encoded
	}
	return b.Bytes()
}

// props is an object whose members keep their order.
type props []prop

type prop struct {
	name  string
	value any
}

// MarshalJSON writes the members in their order.
func (p props) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range p {
		if i > 0 {
			b.WriteByte(',')
		}
		var v bytes.Buffer
		enc := json.NewEncoder(&v)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(m.value); err != nil {
			return nil, err
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(bytes.TrimSpace(v.Bytes()))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (s *shape) schema() props {
	var out props
	if s.doc != "" {
		out = props{{"description", s.doc}}
	}
	switch s.kind {
	case object:
		out = append(out, s.objectSchema()...)
	case list:
		out = append(out, prop{"type", "array"}, prop{"minItems", s.min}, prop{"items", s.elem.schema()})
	case mapping:
		out = append(out, prop{"type", "object"}, prop{"additionalProperties", props{{"type", "string"}}})
	case table:
		out = append(out, prop{"type", "object"}, prop{"additionalProperties", props{{"type", []string{"string", "number", "boolean"}}}})
	case backoff:
		delay := &shape{kind: duration}
		out = append(out, prop{"anyOf", []props{
			delay.schema(),
			(&shape{kind: list, min: 1, elem: delay}).schema(),
			growthShape().schema(),
		}})
	case flag:
		out = append(out, prop{"type", "object"}, prop{"maxProperties", 0})
	case number:
		limits := props{{"type", "integer"}, {"minimum", s.min}}
		if s.max > 0 {
			limits = append(limits, prop{"maximum", s.max})
		}
		out = append(out, prop{"anyOf", []props{limits, variableSchema()}})
	case size:
		out = append(out, prop{"anyOf", []props{
			{{"type", "integer"}, {"minimum", 1}},
			{{"type", "string"}, {"anyOf", []props{{{"pattern", s.form}}, {{"pattern", referenceForm}}}}},
		}})
	case boolean:
		out = append(out, prop{"anyOf", []props{{{"type", "boolean"}}, variableSchema()}})
	default:
		out = append(out, s.textSchema()...)
	}
	return out
}

func (s *shape) objectSchema() props {
	members, required := props{}, []string{}
	for _, f := range s.fields {
		members = append(members, prop{f.name, f.shape.schema()})
		if f.required {
			required = append(required, f.name)
		}
	}
	out := props{{"type", "object"}, {"additionalProperties", false}, {"properties", members}}
	if len(required) > 0 {
		out = append(out, prop{"required", required})
	}
	return out
}

func (s *shape) textSchema() props {
	form := s.form
	switch s.kind {
	case duration:
		form = durationForm
	case percent:
		form = percentForm
	}
	switch {
	case len(s.enum) > 0:
		return props{{"anyOf", []props{{{"enum", s.enum}}, variableSchema()}}}
	case form != "":
		return props{{"type", "string"}, {"anyOf", []props{{{"pattern", form}}, {{"pattern", referenceForm}}}}}
	default:
		return props{{"type", "string"}}
	}
}

// variableSchema allows a value that is filled in from the environment.
func variableSchema() props {
	return props{{"type", "string"}, {"pattern", referenceForm}}
}
