package transport_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/holdfast-go/holdfast/transport"
)

func TestATemplateIsAWildcardWithNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, pattern, address, name, value string }{
		{"orders.{region}.{id}", "orders.*.*", "orders.eu.7", "region", "eu"},
		{"orders.{region}.{id}", "orders.*.*", "orders.eu.7", "id", "7"},
		{"orders.{rest...}", "orders.>", "orders.eu.7.placed", "rest", "eu.7.placed"},
		{"{tenant}.orders.{rest...}", "*.orders.>", "a.orders.b", "tenant", "a"},
		{"{all...}", ">", "a.b", "all", "a.b"},
		{"a.*.{id}", "a.*.*", "a.x.7", "id", "7"},
	} {
		tmpl, err := transport.ParseTemplate(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if got := tmpl.Pattern("*", ">"); got != c.pattern {
			t.Errorf("pattern of %s: %s, want %s", c.text, got, c.pattern)
		}
		if got, ok := tmpl.Param(c.address, c.name); !ok || got != c.value {
			t.Errorf("%s in %s of %s: %q, %v; want %q", c.name, c.address, c.text, got, ok, c.value)
		}
	}
}

func TestAnAddressOfAnotherTemplateHasNoParameters(t *testing.T) {
	t.Parallel()
	tmpl, err := transport.ParseTemplate("orders.{region}.{id}")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"", "orders", "orders.eu", "orders.eu.7.placed", "bills.eu.7", "orders..7", "orders.eu."} {
		if v, ok := tmpl.Param(address, "region"); ok {
			t.Errorf("region of %q: %q", address, v)
		}
	}
	if _, ok := tmpl.Param("orders.eu.7", "tenant"); ok {
		t.Error("there is no tenant")
	}
}

func TestATemplateThatCannotBeReadIsRefused(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"a.{b", "a.b}", "a.x{b}", "a.{}", "a.{...}", "a.{b}.{b}", "a.{b...}.c", "a.{b c}", "a.{{b}}", "a.{b*}", "a.{b.c}"} {
		if _, err := transport.ParseTemplate(text); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("%q: %v, want invalid", text, err)
		}
	}
}

func TestAValueThatWouldMakeAnotherAddressIsRefused(t *testing.T) {
	t.Parallel()
	tmpl, err := transport.ParseTemplate("orders.{id}.{rest...}")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(id, rest string) (string, error) {
		return tmpl.Fill(func(name string) (string, bool) {
			v, ok := map[string]string{"id": id, "rest": rest}[name]
			return v, ok && v != "missing"
		})
	}
	if got, err := fill("7", "eu.placed"); err != nil || got != "orders.7.eu.placed" {
		t.Errorf("filled %q, %v", got, err)
	}
	for _, bad := range []string{"", "a.b", "*", ">", "#", "a b", "a\r\nb", "\x00", "{x}", "\xff", "missing"} {
		if got, err := fill(bad, "x"); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("id %q: %q, %v", bad, got, err)
		}
	}
	for _, bad := range []string{"", ".a", "a.", "a..b", "a.*", "a >"} {
		if got, err := fill("7", bad); !errors.Is(err, transport.ErrInvalid) {
			t.Errorf("rest %q: %q, %v", bad, got, err)
		}
	}
}

func FuzzTemplate(f *testing.F) {
	f.Add("orders.{region}.{id}", "eu", "7")
	f.Add("{a}.{b...}", "x", "y.z")
	f.Fuzz(func(t *testing.T, text, a, b string) {
		tmpl, err := transport.ParseTemplate(text)
		if err != nil || len(tmpl.Names()) == 0 || strings.Contains(text, "*") {
			return
		}
		values := map[string]string{}
		filled, err := tmpl.Fill(func(name string) (string, bool) {
			v := []string{a, b}[len(values)%2]
			values[name] = v
			return v, true
		})
		if err != nil {
			return
		}
		for _, token := range strings.Split(text, ".") {
			if token == "" {
				return // no proper address, which its broker refuses
			}
		}
		for name, want := range values {
			if got, ok := tmpl.Param(filled, name); !ok || got != want {
				t.Fatalf("%s filled as %s: %s is %q, %v; want %q", text, filled, name, got, ok, want)
			}
		}
	})
}
