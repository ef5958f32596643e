"""A bounded evaluator of Jinja templates: jinja2's grammar, none of its code generation.

jinja2 parses (so that white space control and precedence are its own), and this walks the tree.
Every node visited and every character made costs fuel, so a hostile template ends in
`TemplateFault`, whatever it loops over, doubles or nests. There is no way from a template to a
Python attribute, a file or another template.

What differs from jinja2 on purpose: `include`, `import`, `extends` and recursive loops are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser

from ridgeline.model.text.template_expressions import Expressions, Macro, Scope
from ridgeline.model.text.template_meter import Meter
from ridgeline.model.text.template_values import Loop, Namespace, TemplateFault

MAX_CAPTURES = 32
MAX_SOURCE = 1 << 18


class _BreakSignal(TemplateFault):
    """Caught by the loop around; a fault where there is none."""


class _ContinueSignal(TemplateFault):
    """As `_BreakSignal`."""


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's part for training; to render, it is its body."""

    tags = {"generation"}  # noqa: RUF012  jinja2's own form

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def parse_template(source: str) -> nodes.Template:
    """The tree of `source`, cut as transformers cuts (`trim_blocks`, `lstrip_blocks`).

    Raises `TemplateFault` for what is not Jinja, is too long or too deeply nested.
    """
    if len(source) > MAX_SOURCE:
        raise TemplateFault(f"is longer than {MAX_SOURCE} characters")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation]
    )
    try:
        return environment.parse(source)
    except RecursionError:
        raise TemplateFault("is nested too deeply") from None
    except Exception as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}: " if line else ""
        raise TemplateFault(
            f"{where}{str(error).splitlines()[0] if str(error) else error!r}"
        ) from None


@dataclass(slots=True)
class Evaluator:
    """One rendering; `line` is the line of the template that it has come to, for messages."""

    meter: Meter
    line: int = 0
    depth: int = 0
    output: list[str] = field(default_factory=list)
    written: int = 0
    expressions: Expressions = field(init=False)
    # Scopes with macros, which hold their scope.
    closures: list[Scope] = field(default_factory=list)

    def render(self, template: nodes.Template, variables: Mapping[str, Any]) -> str:
        """The text of `template`. Raises `TemplateFault`, or what the functions among `variables`
        raise.
        """
        self.expressions = Expressions(self.meter, self._macro_text)
        scope = Scope(dict(variables), Scope(self.expressions.functions()))
        try:
            self._run(template.body, Scope({}, scope))
        except RecursionError:
            raise TemplateFault("is nested too deeply") from None
        finally:
            # What leads back to itself would wait for the collector of garbage, and its pauses are
            # other requests'.
            del self.expressions
            while self.closures:
                self.closures.pop().names.clear()
        return "".join(self.output)

    def _run(self, statements: Iterable[nodes.Node], scope: Scope) -> None:
        for statement in statements:
            self.meter.spend(1)
            self.line = statement.lineno or self.line
            run = _STATEMENTS.get(type(statement))
            if run is None:
                raise TemplateFault(f"{type(statement).__name__.lower()} is not allowed here")
            run(self, statement, scope)

    def _write(self, text: str) -> None:
        self.written += len(text)
        self.meter.limit(self.written)
        self.output.append(text)

    def _captured(self, body: Sequence[nodes.Node], scope: Scope) -> str:
        if self.depth == MAX_CAPTURES:
            raise TemplateFault(f"nests macros and blocks more than {MAX_CAPTURES} deep")
        outer, self.output = self.output, []
        self.depth += 1
        try:
            self._run(body, scope)
            return str(self.meter.made("".join(self.output)))
        finally:
            self.output = outer
            self.depth -= 1

    def _macro_text(self, body: Sequence[nodes.Node], scope: Scope) -> str:
        try:
            return self._captured(body, scope)
        except (_BreakSignal, _ContinueSignal) as signal:
            raise TemplateFault(str(signal)) from None  # not for the loop that called the macro

    def _run_output(self, node: nodes.Output, scope: Scope) -> None:
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                self._write(part.data)
            else:
                self._write(self.expressions.text(self.expressions.value(part, scope)))

    def _run_if(self, node: nodes.If, scope: Scope) -> None:
        for branch in (node, *node.elif_):
            if self.expressions.value(branch.test, scope):
                self._run(branch.body, scope)
                return
        self._run(node.else_, scope)

    def _run_for(self, node: nodes.For, scope: Scope) -> None:
        if node.recursive:
            raise TemplateFault("recursive loops are not supported")
        values = self.expressions.list_of(self.expressions.value(node.iter, scope))
        if node.test is not None:
            kept = []
            for value in values:
                inner = Scope({}, scope)
                self._assign(node.target, value, inner)
                if self.expressions.value(node.test, inner):
                    kept.append(value)
            values = kept
        loop = Loop(values)
        for place, value in enumerate(values):
            self.meter.spend(1)
            loop.place = place
            inner = Scope({"loop": loop}, scope)
            self._assign(node.target, value, inner)
            try:
                self._run(node.body, inner)
            except _ContinueSignal:
                continue
            except _BreakSignal:
                break
        if not values:
            self._run(node.else_, Scope({}, scope))

    def _run_assign(self, node: nodes.Assign, scope: Scope) -> None:
        self._assign(node.target, self.expressions.value(node.node, scope), scope)

    def _run_assign_block(self, node: nodes.AssignBlock, scope: Scope) -> None:
        value: Any = self._captured(node.body, Scope({}, scope))
        if node.filter is not None:
            value = self.expressions.filtered(node.filter, scope, value)
        self._assign(node.target, value, scope)

    def _run_filter_block(self, node: nodes.FilterBlock, scope: Scope) -> None:
        text = self._captured(node.body, Scope({}, scope))
        self._write(self.expressions.text(self.expressions.filtered(node.filter, scope, text)))

    def _run_macro(self, node: nodes.Macro, scope: Scope) -> None:
        names = tuple(argument.name for argument in node.args)
        scope.names[node.name] = Macro(node.name, names, tuple(node.defaults), node.body, scope)
        self.closures.append(scope)

    def _run_call_block(self, node: nodes.CallBlock, scope: Scope) -> None:
        names = tuple(argument.name for argument in node.args)
        caller = Macro("caller", names, tuple(node.defaults), node.body, scope)
        self._write(
            self.expressions.text(self.expressions.called(node.call, scope, {"caller": caller}))
        )

    def _run_with(self, node: nodes.With, scope: Scope) -> None:
        inner = Scope({}, scope)
        for target, value in zip(node.targets, node.values, strict=True):
            self._assign(target, self.expressions.value(value, scope), inner)
        self._run(node.body, inner)

    def _run_body(self, node: nodes.Scope | nodes.Block, scope: Scope) -> None:
        self._run(node.body, Scope({}, scope))

    def _run_expression(self, node: nodes.ExprStmt, scope: Scope) -> None:
        self.expressions.value(node.node, scope)

    def _run_break(self, node: nodes.Break, scope: Scope) -> None:
        raise _BreakSignal("break stands outside of a loop")

    def _run_continue(self, node: nodes.Continue, scope: Scope) -> None:
        raise _ContinueSignal("continue stands outside of a loop")

    def _assign(self, target: nodes.Node, value: Any, scope: Scope) -> None:
        if isinstance(target, nodes.Name):
            scope.names[target.name] = value
        elif isinstance(target, nodes.NSRef):
            namespace = scope.find(target.name)
            if not isinstance(namespace, Namespace):
                raise TemplateFault(f"cannot set {target.attr!r}: {target.name!r} is no namespace")
            namespace.values[target.attr] = value
        elif isinstance(target, nodes.Tuple):
            values = self.expressions.list_of(value)
            if len(values) != len(target.items):
                raise TemplateFault(f"cannot unpack {len(values)} values to {len(target.items)}")
            for part, one in zip(target.items, values, strict=True):
                self._assign(part, one, scope)
        else:
            raise TemplateFault("cannot assign to this")


_STATEMENTS: Mapping[type[nodes.Node], Callable[[Evaluator, Any, Scope], None]] = {
    nodes.Assign: Evaluator._run_assign,
    nodes.AssignBlock: Evaluator._run_assign_block,
    nodes.Block: Evaluator._run_body,
    nodes.Break: Evaluator._run_break,
    nodes.CallBlock: Evaluator._run_call_block,
    nodes.Continue: Evaluator._run_continue,
    nodes.ExprStmt: Evaluator._run_expression,
    nodes.FilterBlock: Evaluator._run_filter_block,
    nodes.For: Evaluator._run_for,
    nodes.If: Evaluator._run_if,
    nodes.Macro: Evaluator._run_macro,
    nodes.Output: Evaluator._run_output,
    nodes.Scope: Evaluator._run_body,
    nodes.With: Evaluator._run_with,
}
