//! Text assets of a folder in Hugging Face layout: `tokenizer.json`, else `vocab.json` and `merges.txt`, else
//! `tokenizer.model`; what `tokenizer_config.json` and older files beside them say of tokens; `chat_template.jinja` and
//! `additional_chat_templates/NAME.jinja`, which stand for all templates of `tokenizer_config.json`. Each may be absent; the model
//! then takes less.
//!
//! The invariant: the tokenizer is the one that `AutoTokenizer.from_pretrained` of transformers 5.23 makes of the folder, or
//! none. DeBERTa v2's is the one that version 4 makes, by which its models were trained: 5.23 puts a normalizer of its own in the place
//! of the file's.
//!
//! Whether text begins with a beginning-of-sequence token is what `tokenizer.json` says: `add_bos_token` and `add_eos_token`
//! of `tokenizer_config.json` count only where there is none, as transformers has it since version 5
//! (`PreTrainedTokenizerBase._from_pretrained`, checked with 5.23). Version 4 let them count over it in the classes of Llama
//! and Gemma, and wrote what came out of that into every `tokenizer.json` that it saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::class::{Class, REMEDY};
use super::config::{Files, TokenizerConfig};
use super::sentencepiece::hub::{self, Built, Prefix, Spaces};
use super::sentencepiece::{self, Extra, ExtraToken};
use super::{added, merges, rebuilt};
use crate::engine::TextAssets;
use crate::model::error::{ModelError, read_file, read_json, read_text};

/// Reads the text assets, and says which files they came from.
pub fn read(folder: &Path) -> Result<(TextAssets, Vec<PathBuf>), ModelError> {
    let mut folder = Folder { folder, files: Vec::new() };
    let files = Files {
        special_tokens_map: folder.json("special_tokens_map.json")?,
        tokenizer_config: folder.json("tokenizer_config.json")?,
        added_tokens: folder.json("added_tokens.json")?,
    };
    let place = folder.folder.join("tokenizer_config.json");
    let mut config = TokenizerConfig::read(&files).map_err(|e| ModelError::malformed(&place, e))?;
    let tokenizer_json = folder.tokenizer(&files.tokenizer_config, &mut config)?;
    let (chat_template, named_templates) = folder.templates(&files.tokenizer_config, &place)?;
    let variables = config.special_tokens().map(|(name, token)| (name.to_owned(), token.content.clone())).collect();
    let tokenizer_json = tokenizer_json.map(Into::into);
    Ok((
        TextAssets {
            tokenizer_json,
            chat_template,
            named_templates,
            template_variables: variables,
            ..TextAssets::default()
        },
        folder.files,
    ))
}

/// A folder, and the files that were read of it.
struct Folder<'a> {
    folder: &'a Path,
    files: Vec<PathBuf>,
}

impl Folder<'_> {
    fn find(&mut self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(name);
        path.exists().then(|| {
            self.files.push(path.clone());
            path
        })
    }

    /// A JSON file's content; `Null` where there is no such file.
    fn json(&mut self, name: &str) -> Result<Value, ModelError> {
        self.find(name).map_or(Ok(Value::Null), |path| read_json(&path))
    }

    /// The templates of files, or else those of the configuration, which stands at `place`.
    fn templates(&mut self, config: &Value, place: &Path) -> Result<Templates, ModelError> {
        let default = self.find("chat_template.jinja");
        let named = named_template_files(self.folder)?;
        if default.is_none() && named.is_empty() {
            let of_config = config.get("chat_template").filter(|template| !template.is_null());
            return of_config.map_or(Ok(Templates::default()), templates).map_err(|e| ModelError::malformed(place, e));
        }
        self.files.extend(named.iter().map(|(_, path)| path.clone()));
        let read = |(name, path): (String, PathBuf)| Ok((name, read_text(&path)?));
        let named = named.into_iter().map(read).collect::<Result<_, ModelError>>()?;
        Ok((default.map(|path| read_text(&path)).transpose()?, named))
    }

    /// The model's own configuration, which is no file of the text's.
    fn model(&self) -> Result<Value, ModelError> {
        let path = self.folder.join("config.json");
        if path.exists() { read_json(&path) } else { Ok(Value::Null) }
    }

    /// The tokenizer, with all its tokens. What its class takes for granted is put into the configuration.
    fn tokenizer(&mut self, said: &Value, config: &mut TokenizerConfig) -> Result<Option<Vec<u8>>, ModelError> {
        if let Some(path) = self.find("tokenizer.json") {
            let mut json = read_file(&path)?;
            let class = Class::of(said, &self.model()?).ok();
            let words = class.and_then(|class| Some((class, words(class, said)?)));
            if let Some((class, words)) = words {
                let unknown = config.special_token("unk_token").unwrap_or("<unk>");
                let rebuilt = rebuilt::rebuilt(&json, class, words, unknown);
                json = rebuilt.map_err(|e| ModelError::malformed(&path, e.to_string()))?.unwrap_or(json);
            }
            if config.is_silent() {
                return Ok(Some(json));
            }
            let completed = added::complete(&json, config).map_err(|e| ModelError::malformed(&path, e.to_string()))?;
            return Ok(Some(completed.unwrap_or(json)));
        }
        let pair = [self.folder.join("vocab.json"), self.folder.join("merges.txt")];
        let found = if pair.iter().all(|path| path.exists()) {
            self.files.extend(pair.clone());
            pair[0].clone()
        } else if let Some(path) = self.find("tokenizer.model") {
            path
        } else {
            return Ok(None);
        };
        let model = self.model()?;
        let refused = |class: &str| {
            let reason =
                format!("there is no tokenizer.json, and what {class} makes of this file is not known; {REMEDY}");
            ModelError::malformed(&found, reason)
        };
        let class = Class::of(said, &model).map_err(|name| refused(&name))?;
        if class == Class::InternLm2 && found.ends_with("tokenizer.model") {
            return internlm2(&found, said, config).map(Some);
        }
        let Built { tokenizer, named, extra } = if found.ends_with("vocab.json") {
            let vocabulary = read_json(&pair[0])?;
            let prefix_space = flag(said, "add_prefix_space").unwrap_or(false);
            let tokenizer = merges::tokenizer(class, vocabulary, &read_text(&pair[1])?, prefix_space)
                .map_err(|e| ModelError::malformed(&found, e))?
                .ok_or_else(|| refused(class.name()))?;
            Built { tokenizer, named: Vec::new(), extra: Vec::new() }
        } else {
            let spaces = spaces(class, said).ok_or_else(|| refused(class.name()))?;
            hub::build(&read_file(&found)?, spaces, &config.decoder).map_err(|e| ModelError::malformed(&found, e))?
        };
        config.or(class.special_tokens(), extra);
        config.or(&named.iter().map(|(name, text)| (*name, text.as_str())).collect::<Vec<_>>(), Vec::new());
        let malformed = |e: serde_json::Error| ModelError::malformed(&found, e.to_string());
        let json = tokenizer.to_string().into_bytes();
        let json = added::complete(&json, config).map_err(malformed)?.unwrap_or(json);
        let put =
            |flag_name: &str, name: &str| config.special_token(name).filter(|_| flag(said, flag_name) == Some(true));
        let (before, behind) = (put("add_bos_token", "bos_token"), put("add_eos_token", "eos_token"));
        added::surround(&json, before, behind).map(Some).map_err(malformed)
    }
}

/// How a class rewrites a text and cuts it into words, whatever a `tokenizer.json` says; `None` for one that takes the file's.
fn words(class: Class, said: &Value) -> Option<(Value, Value)> {
    match class {
        Class::Llama | Class::Gemma => spaces(class, said).map(Spaces::words),
        Class::Qwen2 | Class::Gpt2 => merges::words(class, flag(said, "add_prefix_space").unwrap_or(false)),
        Class::InternLm2 | Class::Plain => None,
    }
}

fn flag(config: &Value, name: &str) -> Option<bool> {
    config.get(name).and_then(Value::as_bool)
}

/// How a class treats spaces in a SentencePiece model; `None` for one that reads no such file.
fn spaces(class: Class, said: &Value) -> Option<Spaces> {
    match class {
        Class::Llama => Some(Spaces::Llama(match (flag(said, "add_prefix_space"), said.get("legacy")) {
            (Some(false), _) => Prefix::Never,
            // Where it says nothing, as where it says `null`, transformers takes it for no.
            (_, Some(Value::Bool(true))) => Prefix::Always,
            _ => Prefix::First,
        })),
        Class::Gemma => Some(Spaces::Gemma),
        Class::Plain => Some(Spaces::Plain),
        Class::Qwen2 | Class::Gpt2 | Class::InternLm2 => None,
    }
}

/// InternLM2's own code treats spaces as SentencePiece does, and begins a text with a token of its own accord.
fn internlm2(path: &Path, said: &Value, config: &mut TokenizerConfig) -> Result<Vec<u8>, ModelError> {
    let malformed = |e: String| ModelError::malformed(path, e);
    let tokens = config.decoder.iter().map(|(id, token)| {
        let id = usize::try_from(*id).map_err(|_| format!("token {:?} has id {id}", token.content))?;
        Ok(ExtraToken { id, text: token.content.clone(), special: token.special })
    });
    let tokens = tokens.collect::<Result<_, _>>().map_err(malformed)?;
    let add_bos = flag(said, "add_bos_token").unwrap_or(true);
    let extra = Extra { tokens, add_bos, add_eos: flag(said, "add_eos_token").unwrap_or(false) };
    let assets = sentencepiece::read(&read_file(path)?, &extra).map_err(malformed)?;
    let named: Vec<_> = assets.template_variables.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    config.or(&named, Vec::new());
    Ok(assets.tokenizer_json.map(|json| json.to_vec()).unwrap_or_default())
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
        // It counts over the first, where that has no decoder.
        write(folder.path(), "special_tokens_map.json", &json!({"eos_token": "<end>", "pad_token": "<pad>"}));
        let (assets, files) = read(folder.path()).unwrap();
        assert_eq!(assets.chat_template.as_deref(), Some("D"));
        assert_eq!(assets.named_templates, BTreeMap::from([("tool_use".into(), "T".into())]));
        let variables: Vec<_> = assets.template_variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(variables, [("bos_token", "<s>"), ("eos_token", "<end>"), ("pad_token", "<pad>")]);
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
