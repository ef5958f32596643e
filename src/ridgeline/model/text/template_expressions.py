"""Expressions of a template, walked on jinja2's tree: values in, values out, every step metered.

Knows no statements: the text of a macro's body comes from `capture`, which the statements'
evaluator gives.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Undefined

from ridgeline.model.text.template_meter import Meter
from ridgeline.model.text.template_values import (
    FILTERS,
    MAX_BITS,
    MAX_RANGE,
    TESTS,
    Method,
    Namespace,
    TemplateFault,
    attribute,
    item,
    path_getter,
)


@dataclass(slots=True)
class Scope:
    """Names set here, and the scope around."""

    names: dict[str, Any]
    parent: Scope | None = None

    def find(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return Undefined(name=name)


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro, or the body of a call block, with the scope that it was written in."""

    name: str
    arguments: tuple[str, ...]
    defaults: tuple[nodes.Expr, ...]
    body: Sequence[nodes.Node]
    scope: Scope


@dataclass(slots=True)
class Expressions:
    """Evaluates expressions in a scope; `capture` gives the text of statements run in one."""

    meter: Meter
    capture: Callable[[Sequence[nodes.Node], Scope], str]

    def functions(self) -> dict[str, Any]:
        """The functions that every template knows."""
        return {
            "range": self.range_of,
            "namespace": lambda *args, **kwargs: Namespace(dict(*args, **kwargs)),
            "dict": lambda *args, **kwargs: dict(*args, **kwargs),
        }

    def value(self, node: nodes.Node, scope: Scope) -> Any:
        self.meter.spend(1)
        evaluate = _EXPRESSIONS.get(type(node))
        if evaluate is None:
            raise TemplateFault(f"{type(node).__name__.lower()} is not allowed here")
        return evaluate(self, node, scope)

    def text(self, value: Any) -> str:
        if isinstance(value, str):
            return self.meter.made(str(value))  # type: ignore[no-any-return]
        if isinstance(value, (list, tuple, dict)):
            self.meter.limit(self.meter.weigh(value)[1])
        elif not isinstance(value, (int, float, Undefined, type(None))):
            raise TemplateFault(f"cannot print a {type(value).__name__.lower()}")
        return str(value)

    def list_of(self, value: Any) -> list[Any]:
        if isinstance(value, (str, list, tuple, dict, range)):
            self.meter.spend(len(value))
        elif isinstance(value, Iterator):
            value = list(value)
            self.meter.spend(len(value))
        elif not isinstance(value, Undefined):
            raise TemplateFault(f"cannot loop over a value of type {_type_name(value)}")
        return list(value)

    def range_of(self, *bounds: int) -> list[int]:
        values = range(*bounds)
        if len(values) > MAX_RANGE:
            raise TemplateFault(f"range is longer than {MAX_RANGE}")
        self.meter.spend(len(values))
        return list(values)

    def _name(self, node: nodes.Name, scope: Scope) -> Any:
        return scope.find(node.name)

    def _const(self, node: nodes.Const, scope: Scope) -> Any:
        return node.value

    def _template_data(self, node: nodes.TemplateData, scope: Scope) -> Any:
        return node.data

    def _tuple(self, node: nodes.Tuple, scope: Scope) -> Any:
        return tuple(self.value(part, scope) for part in node.items)

    def _list_literal(self, node: nodes.List, scope: Scope) -> Any:
        return [self.value(part, scope) for part in node.items]

    def _dict_literal(self, node: nodes.Dict, scope: Scope) -> Any:
        pairs = [(self._key(pair.key, scope), self.value(pair.value, scope)) for pair in node.items]
        return dict(pairs)

    def _key(self, node: nodes.Node, scope: Scope) -> Any:
        """A key or index; only of a scalar is it known that hashing is cheap."""
        key = self.value(node, scope)
        if not isinstance(key, (str, int, float, Undefined, type(None))):
            raise TemplateFault(f"a value of type {_type_name(key)} cannot be a key")
        return key

    def _condition(self, node: nodes.CondExpr, scope: Scope) -> Any:
        if self.value(node.test, scope):
            return self.value(node.expr1, scope)
        if node.expr2 is None:
            return Undefined("the inline if-expression has no else")
        return self.value(node.expr2, scope)

    def _and(self, node: nodes.And, scope: Scope) -> Any:
        return self.value(node.left, scope) and self.value(node.right, scope)

    def _or(self, node: nodes.Or, scope: Scope) -> Any:
        return self.value(node.left, scope) or self.value(node.right, scope)

    def _not(self, node: nodes.Not, scope: Scope) -> Any:
        return not self.value(node.node, scope)

    def _sign(self, node: nodes.Neg | nodes.Pos, scope: Scope) -> Any:
        value = self.value(node.node, scope)
        return -value if isinstance(node, nodes.Neg) else +value

    def _concat(self, node: nodes.Concat, scope: Scope) -> Any:
        parts = [self.text(self.value(part, scope)) for part in node.nodes]
        self.meter.limit(sum(map(len, parts)))
        return self.meter.made("".join(parts))

    def _compare(self, node: nodes.Compare, scope: Scope) -> Any:
        left = self.value(node.expr, scope)
        result: Any = True
        for operand in node.ops:
            right = self.value(operand.expr, scope)
            if isinstance(right, Iterator):
                right = self.list_of(right)
            self.meter.weigh(left)
            self.meter.weigh(right)
            result = _COMPARISONS[operand.op](left, right)
            if not result:
                return result
            left = right
        return result

    def _binary(self, node: nodes.BinExpr, scope: Scope) -> Any:
        left, right = self.value(node.left, scope), self.value(node.right, scope)
        kind = type(node)
        if kind is nodes.Add and _is_long(left) and _is_long(right):
            self.meter.limit(len(left) + len(right))
        elif kind is nodes.Mul and (_is_long(left) or _is_long(right)):
            text, times = (left, right) if _is_long(left) else (right, left)
            if isinstance(times, int):
                self.meter.limit(len(text) * max(times, 0))
        elif kind is nodes.Mod and isinstance(left, str):
            self._check_percent(left, right)
        elif kind in (nodes.Mul, nodes.Pow) and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length()
            size = bits * max(right, 0) if kind is nodes.Pow else bits + right.bit_length()
            if size > MAX_BITS:
                raise TemplateFault(f"makes a number of more than {MAX_BITS} bits")
        return self.meter.made(_ARITHMETIC[kind](left, right))

    def _check_percent(self, text: str, values: Any) -> None:
        """Refuses `%` formats that could make much out of little."""
        if re.search(r"%[^a-zA-Z%]*(\d{4}|\*)", text):
            raise TemplateFault("a % format is too wide")
        self.meter.limit((text.count("%") + 1) * (self.meter.weigh(values)[1] + 2000) + len(text))

    def _getattr(self, node: nodes.Getattr, scope: Scope) -> Any:
        return attribute(self.value(node.node, scope), node.attr)

    def _getitem(self, node: nodes.Getitem, scope: Scope) -> Any:
        owner = self.value(node.node, scope)
        if not isinstance(node.arg, nodes.Slice):
            return item(owner, self._key(node.arg, scope))
        bounds = (node.arg.start, node.arg.stop, node.arg.step)
        cut = slice(*(None if part is None else self.value(part, scope) for part in bounds))
        if isinstance(owner, Undefined):
            return owner._fail_with_undefined_error()
        if not isinstance(owner, (str, list, tuple)):
            return Undefined(obj=owner, name="slice")
        return self.meter.made(owner[cut])

    def _arguments(self, node: Any, scope: Scope) -> tuple[list[Any], dict[str, Any]]:
        args = [self.value(argument, scope) for argument in node.args]
        kwargs = {pair.key: self.value(pair.value, scope) for pair in node.kwargs}
        if node.dyn_args is not None:
            args.extend(self.list_of(self.value(node.dyn_args, scope)))
        if node.dyn_kwargs is not None:
            kwargs.update(self.value(node.dyn_kwargs, scope))
        return args, kwargs

    def _call(self, node: nodes.Call, scope: Scope) -> Any:
        return self.called(node, scope, {})

    def called(self, node: nodes.Call, scope: Scope, extra: dict[str, Any]) -> Any:
        function = self.value(node.node, scope)
        args, kwargs = self._arguments(node, scope)
        if isinstance(function, Macro):
            return self._call_macro(function, args, kwargs | extra)
        if isinstance(function, Method):
            return self._apply(f".{function.name}", function.call, [function.owner, *args], kwargs)
        if isinstance(function, Undefined):
            return function._fail_with_undefined_error()
        if not callable(function):
            raise TemplateFault(f"a value of type {_type_name(function)} cannot be called")
        return self.meter.made(function(*args, **kwargs))

    def _call_macro(self, macro: Macro, args: list[Any], kwargs: dict[str, Any]) -> str:
        names = dict(zip(macro.arguments, args, strict=False))
        names["varargs"] = tuple(args[len(macro.arguments) :])
        inner = Scope(names, macro.scope)
        for name in macro.arguments[len(args) :]:
            if name in kwargs:
                names[name] = kwargs.pop(name)
        optional = macro.arguments[len(macro.arguments) - len(macro.defaults) :]
        for name, default in zip(optional, macro.defaults, strict=True):
            if name not in names:
                names[name] = self.value(default, inner)
        for name in macro.arguments:
            names.setdefault(name, Undefined(f"parameter {name!r} was not provided", name=name))
        names["caller"] = kwargs.pop("caller", Undefined("No caller defined", name="caller"))
        names["kwargs"] = kwargs
        return self.capture(macro.body, inner)

    def _apply(
        self, name: str, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        """Calls a filter or method, once its arguments are paid for and its result is known to be
        small.
        """
        subject = args[0]
        if isinstance(subject, Iterator):
            subject = self.list_of(subject)
            self.meter.weigh(subject)
            args = [iter(subject), *args[1:]]
        count, chars, depth = self.meter.weigh([*args, *kwargs.values()])
        if name in ("replace", ".replace") and isinstance(subject, str) and len(args) > 2:
            old, new = str(args[1]), str(args[2])
            times = subject.count(old) if old else len(subject) + 1
            self.meter.limit(len(subject) + times * len(new))
        elif name in ("join", ".join"):
            values, separator = subject, kwargs.get("d", args[1] if len(args) > 1 else "")
            if name == ".join":
                values, separator = separator, values
            pieces = count + (len(values) if isinstance(values, str) else 0)
            self.meter.limit(chars + pieces * len(str(separator)))
        elif name == ".format":
            self.meter.limit(len(subject) + (subject.count("{") + 1) * (chars + 2000))
        elif name == "format":
            self._check_percent(str(subject), [args[1:], kwargs])
        elif name == "tojson":
            indent = kwargs.get("indent") or (args[2] if len(args) > 2 else 0)
            width = len(indent) if isinstance(indent, str) else int(indent or 0)
            self.meter.limit(chars * 2 + count * depth * max(width, 0))
        return self.meter.made(function(*args, **kwargs))

    def _filter(self, node: nodes.Filter, scope: Scope) -> Any:
        if node.node is None:
            raise TemplateFault("a filter stands without a value")
        return self.filtered(node, scope, None)

    def filtered(self, node: nodes.Filter, scope: Scope, text: Any) -> Any:
        """The filter's value; `text` where the chain starts at a block."""
        if node.node is None:
            value = text
        elif isinstance(node.node, nodes.Filter):
            value = self.filtered(node.node, scope, text)
        else:
            value = self.value(node.node, scope)
        args, kwargs = self._arguments(node, scope)
        return self._apply_filter(node.name, value, args, kwargs)

    def _apply_filter(self, name: str, value: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        self.meter.spend(1)
        if name == "map":
            return self._map(value, args, kwargs)
        if name in ("select", "reject", "selectattr", "rejectattr"):
            return self._select(name, value, args)
        function = FILTERS.get(name)
        if function is None:
            raise TemplateFault(f"no filter named {name!r}")
        return self._apply(name, function, [value, *args], kwargs)

    def _map(self, value: Any, args: list[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
        values = self.list_of(value) if value else []
        if "attribute" in kwargs:
            follow = path_getter(kwargs["attribute"])
            default = kwargs.get("default")
            found = [follow(one) for one in values]
            if default is not None:
                found = [default if isinstance(one, Undefined) else one for one in found]
            return iter(found)
        if not args:
            raise TemplateFault("map: needs a filter's name or attribute=")
        return iter([self._apply_filter(args[0], one, list(args[1:]), kwargs) for one in values])

    def _select(self, name: str, value: Any, args: list[Any]) -> Iterator[Any]:
        follow: Callable[[Any], Any] = lambda one: one  # noqa: E731
        if name.endswith("attr"):
            if not args:
                raise TemplateFault(f"{name}: needs an attribute's name")
            follow, args = path_getter(args[0]), args[1:]
        wanted = name.startswith("select")
        kept = []
        for one in self.list_of(value) if value else []:
            tested = follow(one)
            passed = self._apply_test(args[0], tested, args[1:]) if args else bool(tested)
            if passed == wanted:
                kept.append(one)
        return iter(kept)

    def _test(self, node: nodes.Test, scope: Scope) -> Any:
        value = self.value(node.node, scope)
        return self._apply_test(node.name, value, self._arguments(node, scope)[0])

    def _apply_test(self, name: str, value: Any, args: list[Any]) -> bool:
        test = TESTS.get(name)
        if test is None:
            raise TemplateFault(f"no test named {name!r}")
        self.meter.weigh([value, *args] if args else None)
        return bool(test(value, *args))


def _is_long(value: Any) -> bool:
    return isinstance(value, (str, list, tuple))


def _type_name(value: Any) -> str:
    return type(value).__name__


_EXPRESSIONS: Mapping[type[nodes.Node], Callable[[Expressions, Any, Scope], Any]] = {
    nodes.And: Expressions._and,
    nodes.Call: Expressions._call,
    nodes.Compare: Expressions._compare,
    nodes.Concat: Expressions._concat,
    nodes.CondExpr: Expressions._condition,
    nodes.Const: Expressions._const,
    nodes.Dict: Expressions._dict_literal,
    nodes.Filter: Expressions._filter,
    nodes.Getattr: Expressions._getattr,
    nodes.Getitem: Expressions._getitem,
    nodes.List: Expressions._list_literal,
    nodes.Name: Expressions._name,
    nodes.Neg: Expressions._sign,
    nodes.Not: Expressions._not,
    nodes.Or: Expressions._or,
    nodes.Pos: Expressions._sign,
    nodes.TemplateData: Expressions._template_data,
    nodes.Test: Expressions._test,
    nodes.Tuple: Expressions._tuple,
    **dict.fromkeys(
        (nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Pow),
        Expressions._binary,
    ),
}
_ARITHMETIC: Mapping[type[nodes.Node], Callable[[Any, Any], Any]] = {
    nodes.Add: operator.add,
    nodes.Div: operator.truediv,
    nodes.FloorDiv: operator.floordiv,
    nodes.Mod: operator.mod,
    nodes.Mul: operator.mul,
    nodes.Pow: operator.pow,
    nodes.Sub: operator.sub,
}
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": lambda left, right: left in right,
    "notin": lambda left, right: left not in right,
}
