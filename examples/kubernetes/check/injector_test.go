package check

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// injector are the objects of the folder injector.
type injector struct {
	mutating          *admissionv1.MutatingAdmissionPolicy
	mutatingBinding   *admissionv1.MutatingAdmissionPolicyBinding
	validating        *admissionv1.ValidatingAdmissionPolicy
	validatingBinding *admissionv1.ValidatingAdmissionPolicyBinding
	debugging         *admissionv1.ValidatingAdmissionPolicy // of ephemeral containers
	debuggingBinding  *admissionv1.ValidatingAdmissionPolicyBinding
	namespace         *corev1.Namespace
	parameters        *corev1.ConfigMap
}

func loadInjector(t *testing.T) (i injector) {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{admissionv1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), "../injector")
	if err != nil {
		t.Fatal(err)
	}
	if built.Size() != reflect.TypeFor[injector]().NumField() {
		t.Fatalf("got %d objects", built.Size())
	}
	for _, resource := range built.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		object, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", resource.CurId(), err)
		}
		switch object := object.(type) {
		case *admissionv1.MutatingAdmissionPolicy:
			i.mutating = object
		case *admissionv1.MutatingAdmissionPolicyBinding:
			i.mutatingBinding = object
		case *admissionv1.ValidatingAdmissionPolicy:
			if strings.HasSuffix(object.Name, "-debug") {
				i.debugging = object
			} else {
				i.validating = object
			}
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			if strings.HasSuffix(object.Name, "-debug") {
				i.debuggingBinding = object
			} else {
				i.validatingBinding = object
			}
		case *corev1.Namespace:
			i.namespace = object
		case *corev1.ConfigMap:
			i.parameters = object
		default:
			t.Fatalf("unexpected %s", resource.CurId())
		}
	}
	return i
}

// TestInjector checks that both policies are about the same pods, deny what they cannot decide, and have their parameters.
func TestInjector(t *testing.T) {
	i := loadInjector(t)
	m, v := i.mutating.Spec, i.validating.Spec
	if !reflect.DeepEqual(m.MatchConstraints, v.MatchConstraints) {
		t.Errorf("policy.yaml is about %v, and rules.yaml about %v", m.MatchConstraints, v.MatchConstraints)
	}
	if c := m.MatchConstraints; c.NamespaceSelector.MatchLabels["token-proxy"] != "enabled" || c.ObjectSelector.MatchLabels["token-proxy"] != "inject" {
		t.Errorf("the selectors are %v", c)
	}
	if c := i.debugging.Spec.MatchConstraints; !reflect.DeepEqual(c.NamespaceSelector, v.MatchConstraints.NamespaceSelector) || c.ObjectSelector != nil {
		t.Errorf("the selectors for ephemeral containers are %v", c)
	}
	if *m.FailurePolicy != admissionv1.Fail || *v.FailurePolicy != admissionv1.Fail || *i.debugging.Spec.FailurePolicy != admissionv1.Fail {
		t.Error("a pod could start without the sidecar, or past the rules")
	}
	if i.mutatingBinding.Spec.PolicyName != i.mutating.Name {
		t.Error("a binding is not that of its policy")
	}
	for _, pair := range []struct {
		policy  *admissionv1.ValidatingAdmissionPolicy
		binding *admissionv1.ValidatingAdmissionPolicyBinding
	}{{i.validating, i.validatingBinding}, {i.debugging, i.debuggingBinding}} {
		if pair.binding.Spec.PolicyName != pair.policy.Name ||
			!slices.Equal(pair.binding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) {
			t.Errorf("the binding of %s is not that of its policy, or does not deny", pair.policy.Name)
		}
	}
	for _, ref := range []*admissionv1.ParamRef{i.mutatingBinding.Spec.ParamRef, i.validatingBinding.Spec.ParamRef} {
		if ref.Name != i.parameters.Name || ref.Namespace != i.parameters.Namespace || ref.Namespace != i.namespace.Name ||
			*ref.ParameterNotFoundAction != admissionv1.DenyAction {
			t.Errorf("the parameters are %v", ref)
		}
	}

	// The rules require each parameter and each annotation that the mutations use, so that these do not fail.
	used := regexp.MustCompile(`params\.data\.(\w+)|annotations\["([^"]+)"\]`)
	conditions := ""
	for _, condition := range m.MatchConditions {
		conditions += condition.Expression
	}
	rules := ""
	for _, variable := range v.Variables {
		rules += variable.Expression
	}
	for _, validation := range v.Validations {
		rules += validation.Expression
		if validation.Message == "" && validation.MessageExpression == "" {
			t.Errorf("no message for %s", validation.Expression)
		}
	}
	found := make(map[string]bool)
	for _, mutation := range m.Mutations {
		for _, match := range used.FindAllStringSubmatch(mutation.JSONPatch.Expression, -1) {
			name := match[1] + match[2]
			found[name] = true
			if !strings.Contains(conditions, "'"+name+"'") || !strings.Contains(rules, "'"+name+"'") {
				t.Errorf("a pod without %s fails without a message", name)
			}
			if match[1] != "" && i.parameters.Data[name] == "" {
				t.Errorf("parameters.yaml lacks %s", name)
			}
		}
	}
	if len(found) != len(i.parameters.Data)+2 {
		t.Errorf("the mutations use %v", found)
	}
}

// TestInjectorIsTheComponent checks that the injector adds the container and the volumes of the component.
func TestInjectorIsTheComponent(t *testing.T) {
	i := loadInjector(t)
	pod := load(t, "secret").deployments[0].Spec.Template.Spec

	values := []string{
		`object.metadata.annotations["token-proxy/config"]`, volume(&pod, "token-proxy-config").ConfigMap.Name,
		`object.metadata.annotations["token-proxy/secret"]`, volume(&pod, "token-proxy-secret").Secret.SecretName,
	}
	for name, value := range i.parameters.Data {
		values = append(values, "params.data."+name, value)
	}
	var sidecar corev1.Container
	expression := i.mutating.Spec.Mutations[0].JSONPatch.Expression
	readCEL(t, between(t, expression, `path: "/spec/initContainers/0", value: `, "}]"), &sidecar, values...)
	if !reflect.DeepEqual(sidecar, pod.InitContainers[0]) {
		t.Errorf("the injector adds\n%+v\nwant\n%+v", sidecar, pod.InitContainers[0])
	}
	var volumes []corev1.Volume
	expression = i.mutating.Spec.Mutations[1].JSONPatch.Expression
	readCEL(t, between(t, expression, `value: []}]) + `, ".map("), &volumes, values...)
	if !reflect.DeepEqual(volumes, pod.Volumes) {
		t.Errorf("the injector adds\n%+v\nwant\n%+v", volumes, pod.Volumes)
	}
}

// between returns the text from the end of one marker to the last occurrence of another.
func between(t *testing.T, text, from, to string) string {
	t.Helper()
	_, text, found := strings.Cut(text, from)
	last := strings.LastIndex(text, to)
	if !found || last < 0 {
		t.Fatalf("the expression has no text between %q and %q", from, to)
	}
	return text[:last]
}

var objectType = regexp.MustCompile(`Object[.\w]*\{`)

// readCEL decodes a literal of CEL strictly. Without the names of the types, it is YAML.
func readCEL(t *testing.T, literal string, into any, values ...string) {
	t.Helper()
	text := strings.NewReplacer(values...).Replace(objectType.ReplaceAllString(literal, "{"))
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
}
