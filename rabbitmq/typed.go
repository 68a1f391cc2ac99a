package rabbitmq

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Values of AMQP headers have types, and headers of the seam are text. What is
// not text is shown as text, and its typed form travels beside it in one header,
// TypedHeader, as JSON: a pair of the type's letter in AMQP and the value. A copy
// made from the seam's message gets the typed value back, unless somebody has
// changed the text meanwhile.

// text renders a value for people.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Decimal:
		return fmt.Sprintf("%de-%d", v.Value, v.Scale)
	case amqp.Table, []any:
		b, err := json.Marshal(plain(v))
		if err != nil {
			return fmt.Sprint(v)
		}
		return string(b)
	default:
		return fmt.Sprint(v)
	}
}

// plain turns a value into what encoding/json writes as one would read it.
func plain(v any) any {
	switch v := v.(type) {
	case nil:
		return nil // null: text would show it as ""
	case amqp.Table:
		out := make(map[string]any, len(v))
		for name, value := range v {
			out[name] = plain(value)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			out[i] = plain(value)
		}
		return out
	case float64, float32, bool, int8, uint8, int16, uint16, int32, uint32, int64, int:
		if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
			return text(v)
		}
		if f, ok := v.(float32); ok && (math.IsNaN(float64(f)) || math.IsInf(float64(f), 0)) {
			return text(v)
		}
		return v
	default:
		return text(v)
	}
}

// typed is the form of a value in TypedHeader. Text that is not UTF-8 would not
// survive JSON, and travels in base64.
func typed(v any) [2]any {
	switch v := v.(type) {
	case bool:
		return [2]any{"t", strconv.FormatBool(v)}
	case int8:
		return [2]any{"b", strconv.FormatInt(int64(v), 10)}
	case uint8:
		return [2]any{"B", strconv.FormatUint(uint64(v), 10)}
	case int16:
		return [2]any{"s", strconv.FormatInt(int64(v), 10)}
	case uint16:
		return [2]any{"u", strconv.FormatUint(uint64(v), 10)}
	case int:
		return [2]any{"I", strconv.FormatInt(int64(v), 10)}
	case int32:
		return [2]any{"I", strconv.FormatInt(int64(v), 10)}
	case uint32:
		return [2]any{"i", strconv.FormatUint(uint64(v), 10)}
	case int64:
		return [2]any{"l", strconv.FormatInt(v, 10)}
	case float32:
		return [2]any{"f", strconv.FormatUint(uint64(math.Float32bits(v)), 10)}
	case float64:
		return [2]any{"d", strconv.FormatUint(math.Float64bits(v), 10)}
	case amqp.Decimal:
		return [2]any{"D", strconv.Itoa(int(v.Scale)) + " " + strconv.FormatInt(int64(v.Value), 10)}
	case time.Time:
		return [2]any{"T", strconv.FormatInt(v.Unix(), 10)}
	case []byte:
		return [2]any{"x", base64.StdEncoding.EncodeToString(v)}
	case string:
		return [2]any{"S", base64.StdEncoding.EncodeToString([]byte(v))}
	case []any:
		list := make([][2]any, len(v))
		for i, value := range v {
			list[i] = typed(value)
		}
		return [2]any{"A", list}
	case amqp.Table:
		table := make(map[string][2]any, len(v))
		for name, value := range v {
			table[name] = typed(value)
		}
		return [2]any{"F", table}
	default:
		return [2]any{"V", ""}
	}
}

// typedHeader is the content of TypedHeader for these values, "" for none.
func typedHeader(values map[string]any) string {
	if len(values) == 0 {
		return ""
	}
	table := make(map[string][2]any, len(values))
	for name, value := range values {
		table[name] = typed(value)
	}
	b, err := json.Marshal(table)
	if err != nil {
		return "" // names that are not text; the values are still shown
	}
	return string(b)
}

// parseTyped reads TypedHeader. What cannot be read is left out.
func parseTyped(s string) map[string]any {
	var raw map[string]json.RawMessage
	if s == "" || json.Unmarshal([]byte(s), &raw) != nil {
		return nil
	}
	out := make(map[string]any, len(raw))
	for name, pair := range raw {
		if v, ok := untype(pair, 0); ok {
			out[name] = v
		}
	}
	return out
}

// maxNesting is how deep lists and tables of a header may lie in each other. It
// bounds what a forged header can cost.
const maxNesting = 32

func untype(raw json.RawMessage, depth int) (any, bool) {
	var pair []json.RawMessage
	var letter string
	if depth > maxNesting || json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &letter) != nil {
		return nil, false
	}
	if letter == "A" || letter == "F" {
		if depth == maxNesting {
			return nil, false // what is in it would be deeper than a publish may have it
		}
		if letter == "A" {
			return untypeArray(pair[1], depth)
		}
		return untypeTable(pair[1], depth)
	}
	var s string
	if json.Unmarshal(pair[1], &s) != nil {
		return nil, false
	}
	return untypeScalar(letter, s)
}

func untypeArray(raw json.RawMessage, depth int) (any, bool) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return nil, false
	}
	list := make([]any, len(items))
	for i, item := range items {
		v, ok := untype(item, depth+1)
		if !ok {
			return nil, false
		}
		list[i] = v
	}
	return list, true
}

func untypeTable(raw json.RawMessage, depth int) (any, bool) {
	var items map[string]json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		return nil, false
	}
	table := make(amqp.Table, len(items))
	for name, item := range items {
		v, ok := untype(item, depth+1)
		if !ok {
			return nil, false
		}
		table[name] = v
	}
	return table, true
}

// untypeScalar reads one value; the letters are those of AMQP's fields.
func untypeScalar(letter, s string) (any, bool) {
	signed := func(bits int) (int64, bool) {
		n, err := strconv.ParseInt(s, 10, bits)
		return n, err == nil
	}
	unsigned := func(bits int) (uint64, bool) {
		n, err := strconv.ParseUint(s, 10, bits)
		return n, err == nil
	}
	switch letter {
	case "t":
		return s == "true", s == "true" || s == "false"
	case "b":
		n, ok := signed(8)
		return int8(n), ok
	case "B":
		n, ok := unsigned(8)
		return uint8(n), ok
	case "s":
		n, ok := signed(16)
		return int16(n), ok
	case "u":
		n, ok := unsigned(16)
		return uint16(n), ok
	case "I":
		n, ok := signed(32)
		return int32(n), ok
	case "i":
		n, ok := unsigned(32)
		return uint32(n), ok
	case "l":
		return signed(64)
	case "f":
		n, ok := unsigned(32)
		return math.Float32frombits(uint32(n)), ok
	case "d":
		n, ok := unsigned(64)
		return math.Float64frombits(n), ok
	case "D":
		var d amqp.Decimal
		_, err := fmt.Sscanf(s, "%d %d", &d.Scale, &d.Value)
		return d, err == nil
	case "T":
		n, ok := signed(64)
		return time.Unix(n, 0), ok
	case "x":
		b, err := base64.StdEncoding.DecodeString(s)
		return b, err == nil
	case "S":
		b, err := base64.StdEncoding.DecodeString(s)
		return string(b), err == nil
	case "V":
		return nil, true
	}
	return nil, false
}
