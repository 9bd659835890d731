//! Text assets of a folder in Hugging Face layout: `tokenizer.json`, else `tokenizer.model`; `tokenizer_config.json`,
//! `special_tokens_map.json`, `chat_template.jinja`, `additional_chat_templates/NAME.jinja`. Each may be absent; the model then
//! takes less. Templates in files of their own stand for all of `tokenizer_config.json`'s, as transformers has it.
//!
//! Whether text begins with a beginning-of-sequence token is what `tokenizer.json` says: `add_bos_token` and `add_eos_token`
//! of `tokenizer_config.json` count only where there is none, as transformers has it since version 5
//! (`PreTrainedTokenizerBase._from_pretrained`, checked with 5.23). Version 4 let them count over it in the classes of Llama
//! and Gemma, and wrote what came out of that into every `tokenizer.json` that it saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sentencepiece::{self, Extra, ExtraToken};
use crate::engine::TextAssets;
use crate::model::error::{ModelError, read_file, read_json, read_text};

/// Fields of `tokenizer_config.json` and `special_tokens_map.json` that a template may use.
const SPECIAL_TOKENS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Reads the text assets, and says which files they came from.
pub fn read(folder: &Path) -> Result<(TextAssets, Vec<PathBuf>), ModelError> {
    let mut files = Vec::new();
    let mut present = |name: &str| {
        let path = folder.join(name);
        path.exists().then(|| {
            files.push(path.clone());
            path
        })
    };
    let tokenizer = present("tokenizer.json");
    let sentencepiece = if tokenizer.is_none() { present("tokenizer.model") } else { None };
    let configs = [present("special_tokens_map.json"), present("tokenizer_config.json")];
    let template_file = present("chat_template.jinja");
    let named_files = named_template_files(folder)?;
    files.extend(named_files.iter().map(|(_, path)| path.clone()));

    let mut assets = match (tokenizer, sentencepiece) {
        (Some(path), _) => TextAssets { tokenizer_json: Some(read_file(&path)?.into()), ..TextAssets::default() },
        (None, Some(path)) => {
            let extra = match &configs[1] {
                Some(config) => extra(&read_json(config)?).map_err(|e| ModelError::malformed(config, e))?,
                None => Extra::default(),
            };
            sentencepiece::read(&read_file(&path)?, &extra).map_err(|e| ModelError::malformed(&path, e))?
        }
        (None, None) => TextAssets::default(),
    };
    // The second file wins: `special_tokens_map.json` is what older versions wrote beside it.
    for path in configs.iter().flatten() {
        let config: BTreeMap<String, Value> = read_json(path)?;
        for name in SPECIAL_TOKENS {
            if let Some(token) = config.get(name).and_then(token_text) {
                assets.template_variables.insert(name.into(), token.into());
            }
        }
        if let Some(template) = config.get("chat_template").filter(|t| !t.is_null()) {
            (assets.chat_template, assets.named_templates) =
                templates(template).map_err(|e| ModelError::malformed(path, e))?;
        }
    }
    if template_file.is_some() || !named_files.is_empty() {
        assets.chat_template = template_file.map(|path| read_text(&path)).transpose()?;
        let read = |(name, path): (String, PathBuf)| Ok((name, read_text(&path)?));
        assets.named_templates = named_files.into_iter().map(read).collect::<Result<_, ModelError>>()?;
    }
    Ok((assets, files))
}

/// What `tokenizer_config.json` adds to a SentencePiece model. Classes that begin a text with a token of their own accord
/// are those of Llama and InternLM2; others are taken at their word.
fn extra(config: &BTreeMap<String, Value>) -> Result<Extra, String> {
    let flag = |name: &str| config.get(name).and_then(Value::as_bool);
    let class = config.get("tokenizer_class").and_then(Value::as_str).unwrap_or_default();
    let begins = ["Llama", "InternLM2"].iter().any(|family| class.starts_with(family));
    let mut tokens = Vec::new();
    if let Some(added) = config.get("added_tokens_decoder").and_then(Value::as_object) {
        for (id, token) in added {
            let text = token_text(token).filter(|text| !text.is_empty());
            let (Ok(id), Some(text)) = (id.parse(), text) else {
                return Err(format!("added_tokens_decoder has {id:?}: {token}, expected an id and a token's content"));
            };
            let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
            tokens.push(ExtraToken { id, text: text.to_owned(), special });
        }
    }
    let add_bos = flag("add_bos_token").unwrap_or(begins);
    Ok(Extra { tokens, add_bos, add_eos: flag("add_eos_token").unwrap_or(false) })
}

/// A special token is its text, or an object with the text as `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// Files of named templates, by their names.
fn named_template_files(folder: &Path) -> Result<Vec<(String, PathBuf)>, ModelError> {
    let folder = folder.join("additional_chat_templates");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(ModelError::io(&folder))? {
        let path = entry.map_err(ModelError::io(&folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jinja"));
        if let Some(name) = name {
            files.push((name.to_owned(), path));
        }
    }
    files.sort();
    Ok(files)
}

/// The default template and those that have another name.
type Templates = (Option<String>, BTreeMap<String, String>);

/// A template is its text, or a list of named ones of which `default` is the one that is applied where none is named.
fn templates(value: &Value) -> Result<Templates, String> {
    if let Some(text) = value.as_str() {
        return Ok((Some(text.to_owned()), BTreeMap::new()));
    }
    let mut named = BTreeMap::new();
    for template in value.as_array().ok_or("chat_template is neither text nor a list of named templates")? {
        let text = |field| template.get(field).and_then(Value::as_str).map(str::to_owned);
        let (Some(name), Some(source)) = (text("name"), text("template")) else {
            return Err("chat_template is a list of which an entry has no name or no template".into());
        };
        named.insert(name, source);
    }
    Ok((named.remove("default"), named))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn write(folder: &Path, name: &str, value: &Value) {
        std::fs::write(folder.join(name), value.to_string()).unwrap();
    }

    #[test]
    fn an_empty_folder_takes_token_ids_only() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), (TextAssets::default(), vec![]));
    }

    #[test]
    fn both_forms_of_special_tokens_and_templates_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let named = json!([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]);
        let config = json!({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template": named});
        write(folder.path(), "tokenizer_config.json", &config);
        write(folder.path(), "special_tokens_map.json", &json!({"eos_token": "<old>", "pad_token": "<pad>"}));
        let (assets, files) = read(folder.path()).unwrap();
        assert_eq!(assets.chat_template.as_deref(), Some("D"));
        assert_eq!(assets.named_templates, BTreeMap::from([("tool_use".into(), "T".into())]));
        let variables: Vec<_> = assets.template_variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(variables, [("bos_token", "<s>"), ("eos_token", "</s>"), ("pad_token", "<pad>")]);
        assert_eq!(files.len(), 2);
        std::fs::write(folder.path().join("chat_template.jinja"), "J").unwrap();
        // Files stand for all templates of the other file.
        let read = read(folder.path()).unwrap().0;
        assert_eq!((read.chat_template.as_deref(), read.named_templates.len()), (Some("J"), 0));
    }

    #[test]
    fn named_templates_have_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "tokenizer_config.json", &json!({"chat_template": "C"}));
        let named = folder.path().join("additional_chat_templates");
        std::fs::create_dir(&named).unwrap();
        for (name, source) in [("tool_use.jinja", "T"), ("rag.jinja", "R"), ("README.md", "")] {
            std::fs::write(named.join(name), source).unwrap();
        }
        let names = |assets: &TextAssets| assets.named_templates.keys().cloned().collect::<Vec<_>>();
        let (assets, files) = read(folder.path()).unwrap();
        assert_eq!((assets.chat_template.as_deref(), names(&assets)), (None, vec!["rag".into(), "tool_use".into()]));
        assert_eq!(files.len(), 3);
        std::fs::write(folder.path().join("chat_template.jinja"), "J").unwrap();
        let (assets, files) = read(folder.path()).unwrap();
        assert_eq!((assets.chat_template.as_deref(), names(&assets).len(), files.len()), (Some("J"), 2, 4));
    }

    /// As transformers 5 has it for every class of tokenizer.
    #[test]
    fn a_tokenizer_file_says_itself_how_text_begins() {
        for class in ["LlamaTokenizerFast", "LlamaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast"] {
            for post_processor in [json!(null), json!({"type": "TemplateProcessing"})] {
                for said in [true, false] {
                    let folder = tempfile::tempdir().unwrap();
                    let tokenizer = json!({"post_processor": post_processor});
                    write(folder.path(), "tokenizer.json", &tokenizer);
                    let config = json!({"tokenizer_class": class, "add_bos_token": said, "add_eos_token": said});
                    write(folder.path(), "tokenizer_config.json", &config);
                    let read = read(folder.path()).unwrap().0.tokenizer_json.unwrap();
                    assert_eq!(serde_json::from_slice::<Value>(&read).unwrap(), tokenizer, "{class} {said}");
                }
            }
        }
    }

    #[test]
    fn named_templates_need_a_name_and_no_default() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "tokenizer_config.json", &json!({"chat_template": [{"name": "rag", "template": "R"}]}));
        let assets = read(folder.path()).unwrap().0;
        assert_eq!((assets.chat_template, assets.named_templates.len()), (None, 1));
        write(folder.path(), "tokenizer_config.json", &json!({"chat_template": [{"template": "R"}]}));
        let message = read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("tokenizer_config.json") && message.contains("no name"), "{message}");
    }
}
