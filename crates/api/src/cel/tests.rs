//! Expressions with their values, and rules as definitions have them.

use serde_json::json;

use super::*;

fn eval(source: &str, variable: &Value) -> Result<String, String> {
    eval_within(CALL_BUDGET, source, variable)
}

fn eval_within(mut budget: u64, source: &str, variable: &Value) -> Result<String, String> {
    let program = Program::parse(source)?;
    match program.run(vec![("x", Val::of(variable, None))], &mut budget) {
        Ok(Val::Bool(b)) => Ok(b.to_string()),
        Ok(Val::Int(i)) => Ok(i.to_string()),
        Ok(Val::Uint(u)) => Ok(format!("{u}u")),
        Ok(Val::Double(d)) => Ok(format!("{d:?}")),
        Ok(Val::Text(s)) => Ok(format!("'{s}'")),
        Ok(Val::Null) => Ok("null".into()),
        Ok(other) => Ok(other.type_name().into()),
        Err(Fault::Cost) => Err("cost".into()),
        Err(Fault::Error(e)) => Err(e),
    }
}

#[test]
fn values() {
    let x = json!({"a": 1, "b": [1, 2, 3], "s": "abc", "m": {"k": "v"}, "t": true, "n": null, "d": 1.5,
        "list": [{"n": "a", "v": 1}, {"n": "b", "v": 2}]});
    for (source, want) in [
        ("1 + 2 * 3", "7"),
        ("7 / 2 + 7 % 4", "6"),
        ("-x.a", "-1"),
        ("1.5 + x.d", "3.0"),
        ("1u + 2u", "3u"),
        ("x.a == 1.0 && 1 == 1u && 1 < 1.5", "true"),
        ("'a' + 'b' + x.s", "'ababc'"),
        ("[1] + [2] == [1, 2]", "true"),
        ("{'a': 1}.a + {'b': 2}['b']", "3"),
        ("x.b[1]", "2"),
        ("x.b.size() + size(x.s) + size(x.m)", "7"),
        ("2 in x.b && 'k' in x.m && !('z' in x.m)", "true"),
        ("has(x.a) && !has(x.zz) && has(x.m.k)", "true"),
        ("x.n == null", "true"),
        ("x.b.all(i, i > 0) && x.b.exists(i, i == 3) && x.b.exists_one(i, i == 3)", "true"),
        ("x.b.map(i, i * 2)[2]", "6"),
        ("x.b.filter(i, i > 1).size()", "2"),
        ("x.b.map(i, i > 1, i * 10)[0]", "20"),
        ("x.m.all(k, x.m[k] == 'v')", "true"),
        ("x.list.all(i, e, i < 2 && e.v == i + 1)", "true"),
        ("x.list.transformMap(i, e, e.v)[1]", "2"),
        ("x.list.map(e, e.n).join(',')", "'a,b'"),
        ("[1, 2, 3, 4].slice(1, 3) == [2, 3] && [].slice(0, 0) == []", "true"),
        (
            "[1, [2, [3, [4]]]].flatten() == [1, 2, [3, [4]]] && [1, [2, [3, [4]]]].flatten(2) == [1, 2, 3, [4]]",
            "true",
        ),
        ("[3, 1, 2].sort() == [1, 2, 3] && ['b', 'a'].sort() == ['a', 'b']", "true"),
        ("lists.range(30).map(i, i % 3 == 0 ? double('NaN') : 30.0 - double(i)).sort()[0]", "1.0"),
        ("x.list.sortBy(e, -e.v).map(e, e.n) == ['b', 'a']", "true"),
        ("['b', 'b', 'c', 'a', 'c'].distinct() == ['b', 'c', 'a'] && [1, 1.0, 1u].distinct() == [1]", "true"),
        ("lists.range(4) == [0, 1, 2, 3] && lists.range(0) == []", "true"),
        ("'%s is %d of %s, 100%%'.format([x.s, x.a, x.b])", "'abc is 1 of [1, 2, 3], 100%'"),
        ("'%s'.format([{'b': [1.5, 'x'], 'a': null}])", r#"'{"a":null, "b":[1.500000, "x"]}'"#),
        ("'%s %s'.format([duration('90s'), type(1)])", "'90s int'"),
        ("'%s'.format([[timestamp('2023-02-03T23:31:20Z')]])", r#"'[timestamp("2023-02-03T23:31:20Z")]'"#),
        ("'%.3f %.2f %f'.format([1234567.8912, -0.5, 3.0])", "'1,234,567.891 -0.50 3.000000'"),
        ("'%.6e'.format([1052.032911275])", "'1.052033\u{202f}\u{d7}\u{202f}10⁰³'"),
        ("'%b %b %o %x %X %x'.format([5, true, 8, 255, -255, 'hi'])", "'101 1 10 ff -FF 6869'"),
        ("timestamp('2023-07-01T12:00:00Z').getHours('Europe/Berlin')", "14"),
        ("timestamp('2023-07-01T12:00:00Z').getHours('-02:00')", "10"),
        ("true || x.zz", "true"),
        ("x.zz || true", "true"),
        ("false && 1 / 0 == 1", "false"),
        ("x.t ? 'y' : 'n'", "'y'"),
        ("type(1) == int && type('') == string && type(x.b) == type([])", "true"),
        ("int('12') + int(3.7) + int(4u)", "19"),
        ("string(12) + string(true)", "'12true'"),
        ("double('1.5')", "1.5"),
        ("'héllo'.size() == 5 && 'héllo'.substring(1, 2) == 'é' && 'héllo'.indexOf('l') == 2", "true"),
        ("'a,b,c'.split(',')[1] + 'AbC'.lowerAscii() + ' x '.trim()", "'babcx'"),
        (
            "'abc'.matches('^[a-c]+$') && 'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.contains('b')",
            "true",
        ),
        ("'aXbXc'.replace('X', '-') + 'aXbXc'.replace('X', '-', 1)", "'a-b-ca-bXc'"),
        ("'abc 123'.find('[0-9]+') + string('a1b2'.findAll('[0-9]').size())", "'1232'"),
        ("x.b.sum() + x.b.max() - x.b.min()", "8"),
        ("x.b.isSorted() && x.b.indexOf(2) == 1", "true"),
        ("duration('1h30m').getMinutes()", "90"),
        ("timestamp('2024-02-29T12:00:00Z').getDayOfMonth()", "28"),
        ("timestamp('2024-02-29T12:00:00Z').getHours('+02:00')", "14"),
        ("timestamp('2024-02-29T12:00:00Z') + duration('1h') > timestamp('2024-02-29T12:30:00Z')", "true"),
        (
            "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')) == quantity('1')",
            "true",
        ),
        ("isQuantity('1x') || !isQuantity('10Mi')", "false"),
        ("url('https://a.b:80/c?d=e&d=f').getHost() + url('/p').getEscapedPath()", "'a.b:80/p'"),
        ("url('https://a.b/?d=e&d=f').getQuery()['d'][1]", "'f'"),
        ("isURL('nonsense') || isIP('1.2.3') || isCIDR('10.0.0.0')", "false"),
        ("ip('10.1.2.3').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3')", "true"),
        ("ip('::1').isLoopback() && !ip('::1').isGlobalUnicast()", "true"),
        ("optional.of(x.a).orValue(9) + optional.none().orValue(9)", "10"),
        ("x.?zz.orValue('none') + x.?m.?k.orValue('none')", "'nonev'"),
        ("x.?a.optMap(v, v + 1).value()", "2"),
        ("x[?'zz'].hasValue() || [1, ?optional.none()].size() > 1", "false"),
        (
            "sets.contains([1, 2, 3], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1])",
            "true",
        ),
        ("math.greatest(1, 3, 2) + math.least([4, 5])", "7"),
        (
            "!format.dns1123Label().validate('a-b').hasValue() && format.named('uuid').value().validate('x').hasValue()",
            "true",
        ),
        (
            "semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.2', true) && !isSemver('v1.2')",
            "true",
        ),
        (
            "format.dns1123LabelPrefix().validate('a-') == optional.none() && format.dns1035Label().validate('1').value().size() == 1",
            "true",
        ),
        (
            "(format.uuid().validate('x').value() + format.byte().validate('-').value()).join('; ')",
            "'does not match the UUID format; invalid base64'",
        ),
        ("{'a': 1, 'b': 2}.transformMapEntry(k, v, v > 1, {k + 'x': v}) == {'bx': 2}", "true"),
        ("[1, 2].exists_one(i, v, v > i + 1)", "false"),
        ("cel.bind(y, x.a + 1, y * y)", "4"),
        ("b'ab'.size()", "2"),
    ] {
        assert_eq!(eval(source, &x).as_deref(), Ok(want), "{source}");
    }
}

#[test]
fn faults() {
    let x = json!({"a": 1, "b": [1]});
    for (source, want) in [
        ("x.zz", "no such key: zz"),
        ("x.b[5]", "index out of bounds: 5"),
        ("x['zz']", "no such key: zz"),
        ("1 / 0", "divide by zero"),
        ("1 % 0", "modulus by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("1 + 'a'", "no such overload"),
        ("x.b.all(i, i + 'a' == 'b')", "no such overload"),
        ("'a'.matches('(')", "error parsing regexp"),
        ("nope", "undeclared reference to 'nope'"),
        ("optional.none().value()", "optional.none() dereference"),
    ] {
        let error = eval(source, &x).unwrap_err();
        assert!(error.starts_with(want), "{source}: {error}");
    }
}

#[test]
fn what_does_not_parse_is_refused() {
    let deep = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    let long = vec!["1"; 50_000].join("+");
    let nested = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let (not, chain) = ("!".repeat(50_000), "true ? 1 : ".repeat(5_000));
    let (index, select) = (format!("x{}", "[0]".repeat(20_000)), format!("x{}", ".y".repeat(40_000)));
    let (within, calls) = (vec!["x"; 20_000].join(" in "), format!("x{}", ".f()".repeat(20_000)));
    for bad in [&index, &select, &within, &calls] {
        assert!(Program::parse(bad).is_err());
    }
    let conditions = vec!["x.a.b.c == 'in (((' + \"it's\""; 300].join(" && ");
    assert!(Program::parse(&conditions).is_ok(), "{:?}", Program::parse(&conditions).err());
    for bad in
        ["", "1 +", "x.", "(", "'a", "x y", &deep, &long, &nested, &not, &chain, "a.b(", "\u{0}", "has(1)"]
    {
        assert!(Program::parse(bad).is_err(), "{}", &bad[..bad.len().min(40)]);
    }
}

#[test]
fn bombs_run_out_of_budget() {
    let x = json!({"l": (0..300).collect::<Vec<_>>(), "s": "a".repeat(1000)});
    for bomb in [
        "x.l.all(a, x.l.all(b, x.l.all(c, a + b + c >= 0)))",
        "x.l.map(a, x.l.map(b, x.l.map(c, c))).size() > 0",
        "x.l.all(a, x.l.all(b, x.s.matches('^(a|b|c)*$')))",
        "x.l.map(a, x.s + x.s + x.s + x.s).map(b, b + b + b + b).map(c, c + c + c + c).map(c, c + c + c).size() == 0",
        "x.l.all(a, x.l.all(b, x.l == x.l))",
    ] {
        assert_eq!(eval(bomb, &x), Err("cost".into()), "{bomb}");
    }
    // A value whose parts are the same one is small, and endless to whoever looks through it.
    let doubled = |pair: &str, last: &str| {
        let step = |i: usize| format!("cel.bind(v{i}, {}, ", pair.replace('v', &format!("v{}", i - 1)));
        let steps: String = (1..50).map(step).collect();
        format!("cel.bind(v0, 1, {steps}{last}{}", ")".repeat(50))
    };
    for (pair, last) in [
        ("[v, v]", "v49 == v49"),
        ("{'a': v, 'b': v}", "v49 != v49"),
        ("[v, v]", "v49 in [1, v49]"),
        ("[v, v]", "[v49].indexOf(v49) == 0"),
        ("[v, v]", "sets.contains([v49], [v49])"),
        ("[v, v]", "sets.equivalent([v49], [v49])"),
        ("[v, v]", "v49.flatten(100).size() == 0"),
        ("[v, v]", "[v49, v49].distinct().size() == 1"),
        ("[v, v]", "'%s'.format([v49]) == ''"),
        ("{'a': v, 'b': v}", "'%s'.format([v49]) == ''"),
    ] {
        let outcome = eval_within(CALL_BUDGET / 10, &doubled(pair, last), &x);
        assert_eq!(outcome, Err("cost".into()), "{last} of {pair}");
    }
}

/// An expression that is evaluated ten times, and that as often as there are levels.
fn tens(levels: usize, body: &str) -> String {
    let level = |i: usize| format!("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(i{i}, ");
    format!("{}{body}{}", (0..levels).map(level).collect::<String>(), ")".repeat(levels))
}

#[test]
fn what_fails_or_is_only_looked_at_costs_too() {
    let long = "a".repeat(100_000);
    let x = json!({"s": long, "m": {"k": 1, long.as_str(): 1}, "u": format!("https://a/?{}", "a&".repeat(50_000))});
    let within = |levels, body: &str| {
        let source = format!(
            "cel.bind(u, url(x.u), cel.bind(l, lists.range(1000).map(i, x.s), {}))",
            tens(levels, body)
        );
        eval_within(CALL_BUDGET / 10, &source, &x)
    };
    for (levels, body) in [
        // An error whose value nobody needs has taken its time all the same.
        (3, "'%s%d'.format([[[[x.s]]], 1.5]) == '' || true"),
        (3, "l.join() == '' || true"),
        (1, "l.sort().size() > 0"),
        (1, "l.sortBy(s, s).size() > 0"),
        (1, "l.isSorted()"),
        (1, "l.min() == ''"),
        (3, "u.getQuery().size() > 0"),
        (3, "x.m[x.s] == 1"),
        (3, "x.s in x.m"),
        (3, "x.m[?x.s].hasValue()"),
        (3, "{x.s: 1}.size() == 1"),
        (3, "x.m.transformMap(k, v, v).size() == 2"),
        (3, "x.m == x.m"),
        (3, &format!("has(x.m.{}) || true", "a".repeat(90_000))),
    ] {
        assert_eq!(within(levels, body), Err("cost".into()), "{body}");
    }
    let found = "x.findAll('.*[^a-z]|[a-z]').size() == 20000";
    assert_eq!(eval_within(CALL_BUDGET / 10, found, &json!("a".repeat(20_000))), Err("cost".into()));
}

#[test]
fn what_is_given_costs_what_it_takes() {
    let deep = json!({"a": {"b": (0..10_000).collect::<Vec<_>>()}, "s": "a".repeat(1 << 20)});
    for (levels, body) in [(2, "x == x"), (3, "size(x.s) > 0"), (3, "x.s == x.s")] {
        assert_eq!(eval(&tens(levels, body), &deep), Err("cost".into()), "{body}");
    }
    assert_eq!(eval("x == x && [x] == [x] && x in [x] && size(x.s) > 0", &deep).as_deref(), Ok("true"));
    // Patterns cost what it takes to make them: once, or again where there are too many to keep.
    let patterns = |n: usize| (0..n).map(|i| format!("!'x'.matches('[a-c]{{9}}{i}')")).collect::<Vec<_>>();
    assert_eq!(eval(&tens(3, &patterns(10).join(" && ")), &deep).as_deref(), Ok("true"));
    let within = |budget, source: &str| eval_within(budget, source, &deep);
    assert_eq!(within(CALL_BUDGET / 10, &tens(3, &patterns(20).join(" && "))), Err("cost".into()));
    assert_eq!(within(CALL_BUDGET / 10, &tens(2, r"'x'.matches('\\pL{500}') || true")), Err("cost".into()));
    // What is counted costs what it becomes, wherever it is matched, and is bounded.
    let texts = json!({"t": "a".repeat(200)});
    let matched = |pattern: &str| {
        eval_within(CALL_BUDGET / 10, &tens(2, &format!("!x.t.matches('{pattern}')")), &texts)
    };
    assert_eq!(matched("^[ab]*c$").as_deref(), Ok("true"));
    assert_eq!(matched("^[ab]{1000}c$"), Err("cost".into()));
    let most = r"x.t.matches('^(\\pL{1000}|\\pN{1000}|\\pS{1000})$')";
    assert!(eval(most, &texts).unwrap_err().contains("error parsing regexp"));
    // What costs nothing by itself does not cost nothing for ever.
    let free = format!("{}true", "false || ".repeat(190));
    assert_eq!(within(CALL_BUDGET / 10, &tens(4, &free)), Err("cost".into()));
    assert_eq!(eval(&tens(3, &free), &deep).as_deref(), Ok("true"));
}

#[test]
fn offsets_of_zones() {
    let time = "timestamp('2024-02-29T12:00:00Z')";
    for zone in ["-02:00", "+02:30", "02:00", "UTC"] {
        assert!(eval(&format!("{time}.getHours('{zone}')"), &json!(1)).is_ok(), "{zone}");
    }
    for zone in ["9999999:00", "-2147483648:00", "00:2147483647", "26:00", "nowhere"] {
        let error = eval(&format!("{time}.getHours('{zone}')"), &json!(1)).unwrap_err();
        assert_eq!(error, format!("unknown time zone {zone}"));
    }
}

#[test]
fn what_is_no_macro_is_looked_at_once() {
    // Each of these looks like a macro, but for the variable that it should begin with.
    let binds = format!("{}true{}", "cel.bind(1, ".repeat(60), ", true)".repeat(60));
    for wrong in [
        binds,
        format!("object{}", ".optMap(1, true)".repeat(60)),
        format!("object{}", ".all(1, 2, true)".repeat(60)),
        format!("object{}", ".transformList(1, 2, true)".repeat(60)),
    ] {
        assert!(check_condition(&wrong, &[]).is_err(), "{wrong}");
    }
}

#[test]
fn errors_are_told_as_far_as_they_can_be_held() {
    let names = |n: usize| (0..n).map(|i| format!("v{i} == 1")).collect::<Vec<_>>().join(" && ");
    let few = check_condition(&names(3), &[]).unwrap_err();
    assert_eq!(few.matches("undeclared reference").count(), 3);
    assert_eq!(few.matches("\n | v0 == 1 &&").count(), 3, "{few}");
    let many = check_condition(&names(150), &[]).unwrap_err();
    assert_eq!(many.matches("undeclared reference").count(), 100);
    assert!(many.ends_with("\n50 more errors were truncated"), "{many}");
    assert!(many.len() < 200_000, "{}", many.len());
    let long = check_condition(&format!("{} && object == '{}'", names(150), "x".repeat(90_000)), &[]);
    assert!(long.unwrap_err().len() < 20_000);
}

fn schema(rules: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules,
    "properties": {
        "min": {"type": "integer"}, "max": {"type": "integer"},
        "name": {"type": "string", "maxLength": 50}, "x-y": {"type": "string"}, "if": {"type": "boolean"},
        "when": {"type": "string", "format": "date-time"},
        "port": {"x-kubernetes-int-or-string": true},
        "tags": {"type": "array", "maxItems": 20, "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 20}},
        "free": {"type": "array", "items": {"type": "string"}},
        "labels": {"type": "object", "maxProperties": 20, "additionalProperties": {"type": "string", "maxLength": 20}},
        "items": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"],
                "x-kubernetes-validations": [{"rule": "self.v >= oldSelf.v", "message": "v only grows"}],
                "properties": {"k": {"type": "string", "maxLength": 10}, "v": {"type": "integer"}}}}
    }}}})
}

fn compiled(rules: Value) -> Result<Structural, ErrorList> {
    Structural::compile(&schema(rules), &Path::root())
}

fn judged(rules: Value, spec: Value, old: Option<Value>) -> Vec<String> {
    let schema = compiled(rules).unwrap_or_else(|e| panic!("{e:?}"));
    let object =
        |spec: Value| json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "n"}, "spec": spec});
    let old = old.map(object);
    let told = schema.validate_rules(&object(spec), old.as_ref(), &ErrorList::new());
    told.0.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_are_judged() {
    let rules = json!([{"rule": "self.min <= self.max", "message": "min must not exceed max"}]);
    assert!(judged(rules.clone(), json!({"min": 1, "max": 2}), None).is_empty());
    assert_eq!(
        judged(rules.clone(), json!({"min": 3, "max": 2}), None),
        ["spec: Invalid value: min must not exceed max"]
    );
    assert_eq!(
        judged(rules.clone(), json!({"min": 3}), None),
        ["spec: Invalid value: \"object\": no such key: max evaluating rule: min must not exceed max"]
    );
    // What was wrong already may stay.
    assert!(judged(rules, json!({"min": 3, "max": 2}), Some(json!({"min": 3, "max": 2}))).is_empty());
    let rules = json!([{"rule": "self.name != 'bad'", "messageExpression": "'no ' + self.name", "reason": "FieldValueForbidden",
        "fieldPath": ".name"}]);
    assert_eq!(judged(rules, json!({"name": "bad"}), None), ["spec.name: Forbidden: no bad"]);
    let rules = json!([{"rule": "self.x__dash__y == 'a' && self.__if__"}]);
    assert_eq!(
        judged(rules.clone(), json!({"x-y": "b", "if": true}), None),
        ["spec: Invalid value: failed rule: self.x__dash__y == 'a' && self.__if__"]
    );
    assert!(judged(rules, json!({"x-y": "a", "if": true}), None).is_empty());
    let rules = json!([{"rule": "self.when > timestamp('2020-01-01T00:00:00Z') && type(self.port) == int"}]);
    assert!(judged(rules, json!({"when": "2021-01-01T00:00:00Z", "port": 1}), None).is_empty());
    // The order of a set means nothing.
    let rules = json!([{"rule": "self.tags == ['a', 'b']"}]);
    assert!(judged(rules, json!({"tags": ["b", "a"]}), None).is_empty());
}

#[test]
fn transitions() {
    let rules = json!([{"rule": "self.name == oldSelf.name", "message": "immutable"}]);
    assert!(judged(rules.clone(), json!({"name": "a"}), None).is_empty(), "there is no earlier state");
    assert!(judged(rules.clone(), json!({"name": "a"}), Some(json!({"name": "a"}))).is_empty());
    assert_eq!(
        judged(rules, json!({"name": "b"}), Some(json!({"name": "a"}))),
        ["spec: Invalid value: immutable"]
    );
    let rules = json!([{"rule": "oldSelf.hasValue() || self.min == 0", "optionalOldSelf": true}]);
    assert_eq!(judged(rules.clone(), json!({"min": 1}), None).len(), 1);
    assert!(judged(rules, json!({"min": 1}), Some(json!({"min": 0}))).is_empty());
    // Items of a list of type map are told apart by their keys, wherever they stand.
    let items = |a: i64, b: i64| json!([{"k": "a", "v": a}, {"k": "b", "v": b}]);
    let turned = json!({"items": [{"k": "b", "v": 5}, {"k": "a", "v": 1}]});
    assert_eq!(
        judged(json!([]), turned, Some(json!({"items": items(2, 4)}))),
        ["spec.items[1]: Invalid value: v only grows"]
    );
}

#[test]
fn bad_rules_are_refused_when_they_are_written() {
    for (rule, want) in [
        (json!({"rule": "self.zz == 1"}), "undefined field 'zz'"),
        (json!({"rule": "self.min + "}), "Syntax error"),
        (json!({"rule": "self.min"}), "cel expression must evaluate to a bool"),
        (json!({"rule": ""}), "rule is not specified"),
        (json!({"rule": "other == 1"}), "undeclared reference to 'other'"),
        (json!({"rule": "self.nofunc()"}), "undeclared reference to 'nofunc'"),
        // What a webhook's condition may ask, a rule may not: it is to judge by the object alone.
        (
            json!({"rule": "authorizer.path('/x').check('get').allowed()"}),
            "undeclared reference to 'authorizer'",
        ),
        (
            json!({"rule": "true", "messageExpression": "authorizer.group('').resource('pods').check('get').reason()"}),
            "undeclared reference to 'authorizer'",
        ),
        (
            json!({"rule": "self.min == 'a'"}),
            "found no matching overload for '_==_' applied to '(int, string)'",
        ),
        (json!({"rule": "self.name.size() > 'a'"}), "found no matching overload"),
        // What is written out is tried.
        (
            json!({"rule": "self.name.matches('(')"}),
            "ERROR: <input>:1:19: invalid matches argument\n | self.name.matches('(')\n | ..................^",
        ),
        (json!({"rule": "matches(self.name, '[')"}), "invalid matches argument"),
        (json!({"rule": "self.name.find('a)') == ''"}), "invalid find argument"),
        (json!({"rule": "duration('1 hour') > duration('1h')"}), "invalid duration argument"),
        (json!({"rule": "self.when > timestamp('yesterday')"}), "invalid timestamp argument"),
        (json!({"rule": "self.min > int('x')"}), "invalid int argument"),
        (json!({"rule": "self.min in [1, 'a']"}), "expected type 'int' but found 'string'"),
        (json!({"rule": "{'a': 1, 2: 3}.size() > 0"}), "expected type 'string' but found 'int'"),
        (json!({"rule": "{'a': 1, 'b': 'c'}.size() > 0"}), "expected type 'int' but found 'string'"),
        (json!({"rule": "true", "messageExpression": "1"}), "messageExpression must evaluate to a string"),
        (
            json!({"rule": "true", "fieldPath": ".zz"}),
            "fieldPath: Invalid value: \".zz\": must be a valid path",
        ),
        (
            json!({"rule": "true", "message": " "}),
            "message: Invalid value: \" \": must be non-empty if specified",
        ),
        (json!({"rule": "true", "message": "a\nb"}), "must not contain line breaks"),
        (
            json!({"rule": "true &&\ntrue"}),
            "message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            json!({"rule": "true", "messageExpression": " "}),
            "messageExpression must be non-empty if specified",
        ),
        (
            json!({"rule": "self.min >", "optionalOldSelf": false}),
            "rule: Invalid value: {\"Rule\":\"self.min \\u003e\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":false}: compilation failed: ERROR: ",
        ),
        (json!({"rule": "true", "reason": "Why"}), "Unsupported value: \"Why\""),
        (
            json!({"rule": "true", "optionalOldSelf": true}),
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"rule": "self.free.all(a, self.free.all(b, a != b))"}),
            "estimated rule cost exceeds budget by factor of more than 100x",
        ),
    ] {
        let errors = compiled(json!([rule.clone()])).expect_err(&rule.to_string());
        let text = errors.message();
        assert!(text.contains(want), "{rule}: {text}");
    }
    for good in [
        "self.tags.all(t, t.startsWith('a'))",
        "self.labels.all(k, self.labels[k] != '')",
        "self.items.all(i, i.v > 0) && self.items.map(i, i.k).size() > 0",
        "self.items.filter(i, i.v > 0).all(i, i.k != '')",
        "has(self.port) ? string(self.port) != '' : true",
        "self.?name.orValue('') != 'x'",
        "size(self.tags) + 1 > 0",
        "self.when < timestamp('2030-01-01T00:00:00Z')",
        "quantity(self.name).isLessThan(quantity('1'))",
        "self.name.matches('^[a-z]+$') && matches('x', '[a-z]*') && 'x'.find('a*') == ''",
        "duration('1h30m') > duration('-2s') && timestamp('2020-01-01T00:00:00.5+02:00') < self.when",
        "[1, dyn('a')].size() == 2 && [self.min, 2, null].size() == 3 && {'a': dyn(1), 'b': 'c'}.size() == 2",
    ] {
        let outcome = compiled(json!([{"rule": good}]));
        assert!(outcome.is_ok(), "{good}: {:?}", outcome.err());
    }
    let in_set = json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3,
        "items": {"type": "string", "maxLength": 3, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
    let text = Structural::compile(&in_set, &Path::root()).unwrap_err().message();
    assert!(
        text.ends_with(
            "oldSelf cannot be used on the uncorrelatable portion of the schema within properties[l]"
        ),
        "{text}"
    );
}

/// The sums of upstream's own tests: which rules may be written depends on them.
#[test]
fn rules_cost_what_they_cost_upstream() {
    let kind = |name: &str| match name {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" => json!({"type": "string", "format": name}),
        "array" => json!({"type": "array", "items": {"type": "number"}}),
        "map" => json!({"type": "object", "additionalProperties": {"type": "number"}}),
        "object" => json!({"type": "object", "required": ["required"],
            "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}}),
        other => json!({"type": other}),
    };
    let list = |items: Value| json!({"type": "array", "items": items});
    let map = |values: Value| json!({"type": "object", "additionalProperties": values});
    let cost = |schema: &Value, rule: &str, most: Option<u64>, of: &str| {
        let mut schema = schema.clone();
        schema["x-kubernetes-validations"] = json!([{"rule": rule}]);
        for field in of.split_whitespace().filter(|_| most.is_some()) {
            let (at, field) = field.rsplit_once('/').unwrap_or(("", field));
            schema.pointer_mut(at).unwrap()[field] = json!(most);
        }
        let whole = json!({"type": "object", "properties": {"p": schema}});
        Structural::compile_taken(&whole, &Path::root()).0.estimate()
    };
    let dear = list(map(kind("object")));
    let text = json!({"type": "string"});
    let replaced = json!({"type": "object", "properties": {"str": text,
        "before": {"type": "string", "maxLength": 2}, "after": {"type": "string", "maxLength": 4}}});
    let split = json!({"type": "object", "properties": {"str": text, "separator": text}});
    let choices = json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]});
    for (schema, rule, free, of, most, bound) in [
        (list(kind("number")), "self.all(x, true)", 4_718_591, "maxItems", 10, 32),
        (list(kind("string")), "self.all(x, true)", 3_145_727, "maxItems", 20, 62),
        (list(kind("boolean")), "self.all(x, true)", 1_887_437, "maxItems", 5, 17),
        (list(kind("array")), "self.all(x, true)", 3_145_727, "maxItems", 100, 302),
        (list(kind("object")), "self.all(x, true)", 555_128, "maxItems", 50, 152),
        (list(kind("int-or-string")), "self.all(x, true)", 4_718_591, "maxItems", 10, 32),
        (list(kind("duration")), "self.all(x, true)", 2_359_295, "maxItems", 5, 17),
        (list(kind("date")), "self.all(x, true)", 725_936, "maxItems", 15, 47),
        (list(kind("date-time")), "self.all(x, true)", 428_963, "maxItems", 25, 77),
        (map(kind("number")), "self.all(x, true)", 1_348_169, "maxProperties", 10, 32),
        (map(kind("string")), "self.all(x, true)", 1_179_647, "maxProperties", 3, 11),
        (map(kind("boolean")), "self.all(x, true)", 943_718, "maxProperties", 100, 302),
        (map(kind("object")), "self.all(x, true)", 428_963, "maxProperties", 20, 62),
        (map(kind("map")), "self.all(x, true)", 1_179_647, "maxProperties", 10, 32),
        (map(kind("array")), "self.all(x, true)", 1_179_647, "maxProperties", 25, 77),
        (map(kind("duration")), "self.all(x, true)", 1_048_577, "maxProperties", 5, 17),
        (map(kind("date")), "self.all(x, true)", 524_288, "maxProperties", 10, 32),
        (map(kind("date-time")), "self.all(x, true)", 349_526, "maxProperties", 25, 77),
        (text.clone(), "self.contains('test')", 314_574, "maxLength", 10, 5),
        (text.clone(), "self.startsWith('test')", 2, "maxLength", 15, 2),
        (text.clone(), "size(self + \"hello\") > size(\"hello\")", 314_578, "maxLength", 4, 7),
        (text.clone(), "self.matches(\"x\")", 314_574, "maxLength", 50, 22),
        (text.clone(), "\"\".matches(\"(((((((((())))))))))[0-9]\")", 7, "maxLength", 10, 7),
        (text.clone(), "self.matches(\"\")", 1, "maxLength", 100, 1),
        (text.clone(), "self == \"x\"", 2, "maxLength", 0, 1),
        (text.clone(), "self.find('[0-9]+') == ''", 629_147, "maxLength", 10, 11),
        (text.clone(), "self.lowerAscii() == 'lower!'", 314_575, "maxLength", 10, 6),
        (choices, "self.contains('A')", 2, "maxLength", 1000, 401),
        (list(kind("number")), "self[1] == 0.0", 2, "maxItems", 5000, 2),
        (list(kind("string")), "self[1] == self[1]", 314_577, "maxItems", 8, 314_577),
        (list(kind("number")), "self.all(x, x == 0.0)", 6_291_454, "maxItems", 3 * 1024 * 2048, 25_165_826),
        (list(kind("int-or-string")), "self[0] == 5", 3, "maxItems", 10, 3),
        (list(kind("object")), "self[0] == null", 2, "maxItems", 422, 2),
        (list(kind("array")), "self[0][0] == -1.0", 3, "maxItems", 51, 3),
        (list(map(kind("number"))), "self.all(x, x.y == 25.2)", 6_291_452, "maxItems", 12, 74),
        (list(map(kind("number"))), "self[0].x > 2.0", 4, "maxItems", 3000, 4),
        (list(kind("duration")), "self[0].getHours() == 2", 4, "maxItems", 525, 4),
        (list(kind("date")), "self[2].getDayOfMonth() == 13", 4, "maxItems", 42, 4),
        (map(kind("number")), "self[\"x\"] == 0.0", 2, "maxProperties", 0, 2),
        (map(kind("date-time")), "self[\"a\"] == self[\"b\"]", 8, "maxProperties", 7, 8),
        (map(kind("integer")), "oldSelf.size() == self.size()", 5, "maxProperties", 10, 5),
        (
            map(kind("string")),
            "self.all(x, x.contains(self[x]))",
            2_752_507,
            "maxProperties /additionalProperties/maxLength",
            10,
            72,
        ),
        (dear, "self.all(x, x[\"y\"].required == \"z\")", 7_340_027, "maxItems /items/maxProperties", 10, 72),
        (
            list(kind("string")),
            "self.join(' ') == 'aa bb'",
            329_853_068_905,
            "maxItems /items/maxLength",
            10,
            43,
        ),
        (
            list(kind("string")),
            "self.isSorted() == true",
            329_854_432_052,
            "maxItems /items/maxLength",
            10,
            52,
        ),
        (
            replaced,
            "self.str.replace(self.before, self.after) == 'does not matter'",
            629_154,
            "/properties/str/maxLength",
            4,
            12,
        ),
        (
            split,
            "self.str.split(self.separator) == []",
            629_160,
            "/properties/str/maxLength /properties/separator/maxLength",
            10,
            22,
        ),
        (kind("int-or-string"), "isQuantity(self)", 314_574, "maxLength", 20, 9),
    ] {
        assert_eq!(cost(&schema, rule, None, of), free, "{rule} of {schema}");
        assert_eq!(cost(&schema, rule, Some(most), of), bound, "{rule} of {schema} with {of}: {most}");
    }
    for schema in [map(kind("number")), map(kind("object"))] {
        assert_eq!(cost(&schema, "has(self.x)", None, ""), 1);
    }
    // What was made of lists is sized as upstream does it, or rules of well-known operators would be too dear.
    let addresses = json!({"type": "object", "properties": {
        "l": {"type": "array", "maxItems": 256, "items": {"type": "string", "maxLength": 64}}}});
    assert_eq!(cost(&addresses, "(has(self.l) ? self.l : []).exists(k, k.contains('/'))", None, ""), 1292);
    assert!(cost(&kind("int-or-string"), "type(self) == int", None, "") < 400_000);
    // How often a rule is judged counts once, however many lists without an end are around it.
    let inner = json!({"type": "boolean", "x-kubernetes-validations": [{"rule": "self == true"}]});
    let whole = json!({"type": "object", "properties": {"p": list(list(list(inner)))}});
    let (schema, errors) = Structural::compile_taken(&whole, &Path::root());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(schema.estimate(), 3 * 1024 * 1024 / 5);
}

#[test]
fn lists_and_texts_that_cannot_be_made_are_not() {
    let none = json!({});
    for (source, why) in [
        ("lists.range(100000000000).size()", "cost"),
        ("[1, 2].slice(0, 3)", "cannot slice(0, 3), list is length 2"),
        ("[1, 2].slice(2, 1)", "cannot slice(2, 1), start index must be less than or equal to end index"),
        ("[1, 2].slice(-1, 1)", "cannot slice(-1, 1), negative indexes not supported"),
        ("[1, 'b'].sort()", "list elements must have the same type"),
        ("[[1], [2]].sort()", "list elements must be comparable"),
        ("[1].flatten(-1)", "level must be non-negative"),
        (
            "'%d'.format(['x'])",
            "error during formatting: decimal clause can only be used on integers, was given string",
        ),
        ("'%s %s'.format(['x'])", "index 1 out of range"),
        ("'%q'.format(['x'])", "error during formatting: unrecognized formatting clause \"q\""),
        ("'%.999f'.format([1.0])", "precision 999 is more than the 100 digits that are possible"),
        ("timestamp('2023-07-01T12:00:00Z').getHours('Mars/Phobos')", "unknown time zone Mars/Phobos"),
    ] {
        assert_eq!(eval(source, &none), Err(why.into()), "{source}");
    }
}
