"""A stand-in for a model, which decides by what it has been told, and two tools."""

import ast
import operator


def ask_model(messages):
    told = {message["name"]: message["content"] for message in messages if message["role"] == "tool"}
    if "look_up" not in told:
        return {"tools": [
            {"name": "look_up", "arguments": {"topic": "bridge"}},
            {"name": "telephone", "arguments": {"number": 112}},
        ]}
    if "calculate" not in told:
        return {"tools": [{"name": "calculate", "arguments": {"expression": f"2 * (2026 - {told['look_up']})"}}]}
    return {"final": f"It was built in {told['look_up']}: {told['calculate']} half-years."}


def look_up(topic):
    return {"bridge": 1894}[topic]


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def calculate(expression):
    def value(node):
        if isinstance(node, ast.Constant):
            return node.value
        return OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(expression, mode="eval").body)
