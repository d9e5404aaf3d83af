package oauth2

import "encoding/json"

// Values are one or more values. In JSON, one value stands alone and several are an array.
type Values[T ~string] []T

// UnmarshalJSON implements json.Unmarshaler.
func (v *Values[T]) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '[' {
		return json.Unmarshal(text, (*[]T)(v))
	}
	var single T
	if err := json.Unmarshal(text, &single); err != nil {
		return err
	}
	*v = Values[T]{single}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (v Values[T]) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]T(v))
}
