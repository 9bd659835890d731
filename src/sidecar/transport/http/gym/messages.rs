//! Items of OpenAI's Responses API as messages of a chat template.
//!
//! Invariant: what a template could not be given is a rejection of the rollout, and no item is left out but reasoning, which templates
//! take out of earlier turns, too.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::reward::{Code, Rejection};
use crate::rollout::ASSISTANT;

fn bad(message: String) -> Rejection {
    Rejection::new(Code::BadMessages, message)
}

/// A value as it stands in a row.
pub(super) fn raw(value: &Value) -> Result<Box<RawValue>, Rejection> {
    serde_json::value::to_raw_value(value).map_err(|error| bad(error.to_string()))
}

/// The whole conversation: instructions, input, and what the policy answered.
pub(super) fn conversation(instructions: Option<String>, input: Value, output: Vec<Value>) -> Result<Value, Rejection> {
    let mut messages = Vec::new();
    if let Some(instructions) = instructions {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match input {
        Value::String(text) => messages.push(json!({"role": "user", "content": text})),
        Value::Array(items) => {
            for (i, item) in items.into_iter().enumerate() {
                add(&mut messages, item, &format!("responses_create_params.input[{i}]"))?;
            }
        }
        _ => return Err(bad("responses_create_params.input: neither text nor a list of items".into())),
    }
    for (i, item) in output.into_iter().enumerate() {
        add(&mut messages, item, &format!("response.output[{i}]"))?;
    }
    Ok(Value::Array(messages))
}

fn add(messages: &mut Vec<Value>, item: Value, at: &str) -> Result<(), Rejection> {
    let text_of = |name: &str| item.get(name).and_then(Value::as_str).map(str::to_owned);
    let needed = |name: &str| text_of(name).ok_or_else(|| bad(format!("{at}.{name}: missing, or no text")));
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => {
            let role = needed("role")?;
            // The name that chat templates know.
            let role = if role == "developer" { "system".to_owned() } else { role };
            let content = content(item.get("content"), at)?;
            messages.push(json!({"role": role, "content": content}));
        }
        "reasoning" => {}
        "function_call" => {
            let call = json!({
                "id": needed("call_id")?,
                "type": "function",
                "function": {"name": needed("name")?, "arguments": needed("arguments")?},
            });
            match messages.last_mut().and_then(Value::as_object_mut).filter(|last| is_assistants(last)) {
                Some(last) => match last.entry("tool_calls").or_insert_with(|| json!([])) {
                    Value::Array(calls) => calls.push(call),
                    _ => return Err(bad(format!("{at}: a call behind a message whose tool_calls are no list"))),
                },
                None => messages.push(json!({"role": ASSISTANT, "content": "", "tool_calls": [call]})),
            }
        }
        "function_call_output" => {
            let id = needed("call_id")?;
            let output = content(item.get("output"), at)?;
            messages.push(json!({"role": "tool", "tool_call_id": id, "content": output}));
        }
        other => {
            return Err(bad(format!(
                "{at}: items of the type '{other}' are no part of a chat template's conversation"
            )));
        }
    }
    Ok(())
}

fn is_assistants(message: &Map<String, Value>) -> bool {
    message.get("role").and_then(Value::as_str) == Some(ASSISTANT)
}

/// Text, or the text of all parts.
fn content(content: Option<&Value>, at: &str) -> Result<String, Rejection> {
    match content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => parts.iter().map(|part| text_of(part, at)).collect(),
        _ => Err(bad(format!("{at}: no content"))),
    }
}

fn text_of(part: &Value, at: &str) -> Result<String, Rejection> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
    let name = if kind == "refusal" { "refusal" } else { "text" };
    match (kind, part.get(name).and_then(Value::as_str)) {
        ("input_text" | "output_text" | "text" | "refusal", Some(text)) => Ok(text.to_owned()),
        _ => Err(bad(format!("{at}: a part of the type '{kind}'; a text model is given text"))),
    }
}

/// Tools of the Responses API as chat templates have them: `{"type", "function": {...}}`.
pub(super) fn tools(tools: Value) -> Value {
    let nested = |tool: &Value| match tool.as_object() {
        Some(tool) if !tool.contains_key("function") => {
            let rest: Map<String, Value> = tool
                .iter()
                .filter(|(name, _)| *name != "type")
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            json!({"type": tool.get("type").cloned().unwrap_or_default(), "function": rest})
        }
        _ => tool.clone(),
    };
    Value::Array(tools.as_array().map(|tools| tools.iter().map(nested).collect()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_become_messages() {
        let input = json!([
            {"role": "developer", "content": "s"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        ]);
        let output = json!([
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "7"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c"}]},
        ]);
        let call = |id, name| json!({"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}});
        assert_eq!(
            conversation(Some("i".into()), input, output.as_array().unwrap().clone()).unwrap(),
            json!([
                {"role": "system", "content": "i"},
                {"role": "system", "content": "s"},
                {"role": "user", "content": "ab"},
                {"role": "assistant", "content": "", "tool_calls": [call("1", "f"), call("2", "g")]},
                {"role": "tool", "tool_call_id": "1", "content": "7"},
                {"role": "assistant", "content": "c"},
            ])
        );
        for (item, says) in [
            (json!({"type": "web_search_call"}), "response.output[0]: items of the type 'web_search_call'"),
            (json!({"role": "assistant", "content": [{"type": "input_image"}]}), "a part of the type 'input_image'"),
            (json!({"role": "assistant"}), "no content"),
            (json!({"content": "x"}), "response.output[0].role: missing"),
        ] {
            let rejection = conversation(None, json!("u"), vec![item]).unwrap_err();
            assert!(rejection.message.contains(says), "{}", rejection.message);
        }
    }

    #[test]
    fn tools_are_nested() {
        assert_eq!(
            tools(json!([{"type": "function", "name": "f", "parameters": {}}])),
            json!([{"type": "function", "function": {"name": "f", "parameters": {}}}])
        );
    }
}
