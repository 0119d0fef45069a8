#include "llmft/tokenizer/tokenizer.hpp"

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/tokenizer/loaders.hpp"

namespace llmft {
namespace fs = std::filesystem;
namespace {

fs::path find_file(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error))
    user_error("{}: no such file or folder; give a tokenizer.json, a tokenizer.model or the folder of one",
               path.string());
  if (!fs::is_directory(path, error)) return path;
  for (const char* name : {"tokenizer.json", "tokenizer.model", "original/tokenizer.model"})
    if (fs::exists(path / name, error)) return path / name;
  user_error(
      "{}: no tokenizer in this folder (looked for tokenizer.json, tokenizer.model, "
      "original/tokenizer.model); "
      "give the folder of a downloaded model",
      path.string());
}

std::unique_ptr<Tokenizer> load_content(std::string_view content, const std::string& where) {
  if (content.empty()) user_error("{}: the file is empty; get it again", where);
  if (looks_like_json(content)) return load_hugging_face(content, where);
  if (looks_like_tiktoken(content)) return load_tiktoken(content, where);
  if (content.starts_with("version https://git-lfs"))
    user_error("{}: a Git LFS pointer, not the file itself; run 'git lfs pull', or 'hf download'", where);
  return load_sentencepiece(content, where);
}

}  // namespace

std::optional<TokenId> Tokenizer::special(std::string_view name) const {
  auto found = special_tokens().find(name);
  return found == special_tokens().end() ? std::nullopt : std::optional(found->second);
}

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& path) {
  const fs::path file = find_file(path);
  const std::string content = read_file(file);
  std::unique_ptr<Tokenizer> tokenizer = load_content(content, file.string());
  tokenizer->file_hash_ = hash_bytes(content);
  return tokenizer;
}

}  // namespace llmft
