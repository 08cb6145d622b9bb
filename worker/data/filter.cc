#include "worker/data/filter.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <utility>

#include "worker/data/text.h"

namespace gatemill::data {
namespace {

enum class Op { kAnd, kOr, kNot, kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn };

struct Literal {
  std::string text;
  std::optional<double> number;
};

constexpr int kMaxDepth = 100;  // of nested parentheses and nots: the parser recurses

}  // namespace

struct Filter::Node {
  Op op = Op::kAnd;
  std::unique_ptr<const Node> left;   // and, or, not
  std::unique_ptr<const Node> right;  // and, or
  std::size_t column = 0;             // comparisons: position in columns()
  std::vector<Literal> literals;      // one; `in`: any number
};

namespace {

using NodePtr = std::unique_ptr<const Filter::Node>;

enum class TokenKind { kEnd, kWord, kText, kName, kSymbol };
struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  std::size_t position = 0;  // from 1
};

bool IsWordChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-'; }

class Parser {
 public:
  Parser(const std::string& expression, const std::vector<std::string>& known, std::vector<std::string>* columns)
      : expression_(expression), known_(known), columns_(columns) {}

  Result<NodePtr> Run() {
    GM_RETURN_IF_ERROR(Advance());
    GM_ASSIGN_OR_RETURN(NodePtr node, ParseOr(0));
    if (token_.kind != TokenKind::kEnd) return Mistake("expected `and`, `or` or the end, found " + Shown());
    return node;
  }

 private:
  [[nodiscard]] Status Mistake(const std::string& what) const {
    return InvalidInput("where: \"" + expression_ + "\", position " + std::to_string(token_.position) + ": " + what);
  }
  [[nodiscard]] std::string Shown() const {
    return token_.kind == TokenKind::kEnd ? "the end" : "\"" + token_.text + "\"";
  }
  [[nodiscard]] bool IsWord(std::string_view word) const {
    return token_.kind == TokenKind::kWord && token_.text == word;
  }
  [[nodiscard]] bool IsSymbol(std::string_view symbol) const {
    return token_.kind == TokenKind::kSymbol && token_.text == symbol;
  }

  Status Advance() {
    while (next_ < expression_.size() && std::isspace(static_cast<unsigned char>(expression_[next_])) != 0) ++next_;
    token_ = {TokenKind::kEnd, "", next_ + 1};
    if (next_ == expression_.size()) return Ok();
    const char c = expression_[next_];
    if (c == '\'' || c == '"' || c == '`') return AdvanceQuoted(c);
    if (IsWordChar(c) || c == '+') {
      const std::size_t start = next_++;
      while (next_ < expression_.size() && IsWordChar(expression_[next_])) ++next_;
      token_.kind = TokenKind::kWord;
      token_.text = expression_.substr(start, next_ - start);
      return Ok();
    }
    static constexpr std::array<std::string_view, 11> kSymbols = {"==", "!=", "<=", ">=", "<", ">",
                                                                  "(",  ")",  "[",  "]",  ","};
    for (const std::string_view symbol : kSymbols) {
      if (expression_.compare(next_, symbol.size(), symbol) != 0) continue;
      token_.kind = TokenKind::kSymbol;
      token_.text = symbol;
      next_ += symbol.size();
      return Ok();
    }
    if (c == '=') return Mistake("a comparison is written `==`");
    return Mistake(std::string("unexpected character `") + c + "`; put text with such characters in quotes");
  }

  Status AdvanceQuoted(char quote) {
    const std::size_t end = expression_.find(quote, next_ + 1);
    if (end == std::string::npos) return Mistake(std::string("the ") + quote + " is not closed");
    token_.kind = quote == '`' ? TokenKind::kName : TokenKind::kText;
    token_.text = expression_.substr(next_ + 1, end - next_ - 1);
    next_ = end + 1;
    return Ok();
  }

  Result<NodePtr> ParseOr(int depth) { return ParseChain("or", Op::kOr, depth); }

  // a `word` b `word` c ..., left to right; `or` joins chains of `and`, which join single terms.
  Result<NodePtr> ParseChain(std::string_view word, Op op, int depth) {
    const auto part = [&] { return op == Op::kOr ? ParseChain("and", Op::kAnd, depth) : ParseTerm(depth); };
    GM_ASSIGN_OR_RETURN(NodePtr left, part());
    while (IsWord(word)) {
      GM_RETURN_IF_ERROR(Advance());
      GM_ASSIGN_OR_RETURN(NodePtr right, part());
      auto node = std::make_unique<Filter::Node>();
      node->op = op;
      node->left = std::move(left);
      node->right = std::move(right);
      left = std::move(node);
    }
    return left;
  }

  Result<NodePtr> ParseTerm(int depth) {
    if (depth > kMaxDepth) return Mistake("more than " + std::to_string(kMaxDepth) + " nested parentheses");
    if (IsWord("not")) {
      GM_RETURN_IF_ERROR(Advance());
      auto node = std::make_unique<Filter::Node>();
      node->op = Op::kNot;
      GM_ASSIGN_OR_RETURN(node->left, ParseTerm(depth + 1));
      return NodePtr(std::move(node));
    }
    if (!IsSymbol("(")) return ParseComparison();
    GM_RETURN_IF_ERROR(Advance());
    GM_ASSIGN_OR_RETURN(NodePtr inner, ParseOr(depth + 1));
    if (!IsSymbol(")")) return Mistake("expected `)`, found " + Shown());
    GM_RETURN_IF_ERROR(Advance());
    return inner;
  }

  Result<NodePtr> ParseComparison() {
    auto node = std::make_unique<Filter::Node>();
    GM_ASSIGN_OR_RETURN(node->column, ParseColumn());
    GM_ASSIGN_OR_RETURN(node->op, ParseOperator());
    if (node->op == Op::kIn) {
      GM_ASSIGN_OR_RETURN(node->literals, ParseList());
    } else {
      GM_ASSIGN_OR_RETURN(Literal literal, ParseLiteral());
      node->literals.push_back(std::move(literal));
    }
    return NodePtr(std::move(node));
  }

  Result<std::size_t> ParseColumn() {
    if (token_.kind != TokenKind::kWord && token_.kind != TokenKind::kName) {
      return Mistake("expected a column, found " + Shown());
    }
    if (std::find(known_.begin(), known_.end(), token_.text) == known_.end()) {
      return Mistake("unknown column \"" + token_.text + "\"" + SuggestColumn(token_.text, known_));
    }
    const auto found = std::find(columns_->begin(), columns_->end(), token_.text);
    const auto index = static_cast<std::size_t>(found - columns_->begin());
    if (found == columns_->end()) columns_->push_back(token_.text);
    GM_RETURN_IF_ERROR(Advance());
    return index;
  }

  Result<Op> ParseOperator() {
    static constexpr std::array<std::pair<std::string_view, Op>, 6> kOperators = {{{"==", Op::kEqual},
                                                                                   {"!=", Op::kNotEqual},
                                                                                   {"<", Op::kLess},
                                                                                   {"<=", Op::kLessEqual},
                                                                                   {">", Op::kGreater},
                                                                                   {">=", Op::kGreaterEqual}}};
    if (IsWord("in")) {
      GM_RETURN_IF_ERROR(Advance());
      return Op::kIn;
    }
    for (const auto& [symbol, op] : kOperators) {
      if (!IsSymbol(symbol)) continue;
      GM_RETURN_IF_ERROR(Advance());
      return op;
    }
    return Mistake("expected ==, !=, <, <=, >, >= or `in`, found " + Shown());
  }

  Result<Literal> ParseLiteral() {
    if (token_.kind != TokenKind::kWord && token_.kind != TokenKind::kText) {
      return Mistake("expected a number or a text, found " + Shown());
    }
    // Quoted numbers are numbers too: '007' in the data and 7 here are one value, as everywhere in a filter.
    Literal literal{token_.text, ParseNumber(token_.text)};
    GM_RETURN_IF_ERROR(Advance());
    return literal;
  }

  Result<std::vector<Literal>> ParseList() {
    if (!IsSymbol("[")) return Mistake("expected `[` after `in`, found " + Shown());
    std::vector<Literal> literals;
    do {
      GM_RETURN_IF_ERROR(Advance());
      GM_ASSIGN_OR_RETURN(Literal literal, ParseLiteral());
      literals.push_back(std::move(literal));
    } while (IsSymbol(","));
    if (!IsSymbol("]")) return Mistake("expected `,` or `]`, found " + Shown());
    GM_RETURN_IF_ERROR(Advance());
    return literals;
  }

  const std::string& expression_;
  const std::vector<std::string>& known_;
  std::vector<std::string>* columns_;
  std::size_t next_ = 0;
  Token token_;
};

bool Equal(std::string_view value, const Literal& literal) {
  if (value == literal.text) return true;
  if (!literal.number) return false;
  const std::optional<double> number = ParseNumber(value);
  return number && *number == *literal.number;
}

template <typename T>
bool Ordered(Op op, const T& a, const T& b) {
  switch (op) {
    case Op::kLess: return a < b;
    case Op::kLessEqual: return a <= b;
    case Op::kGreater: return a > b;
    default: return a >= b;
  }
}

bool Passes(const Filter::Node& node, std::span<const std::string_view> values) {
  switch (node.op) {
    case Op::kAnd: return Passes(*node.left, values) && Passes(*node.right, values);
    case Op::kOr: return Passes(*node.left, values) || Passes(*node.right, values);
    case Op::kNot: return !Passes(*node.left, values);
    default: break;
  }
  const std::string_view value = values[node.column];
  const auto equal = [&](const Literal& literal) { return Equal(value, literal); };
  switch (node.op) {
    case Op::kEqual:
    case Op::kIn: return std::any_of(node.literals.begin(), node.literals.end(), equal);
    case Op::kNotEqual: return !equal(node.literals[0]);
    default: break;
  }
  const Literal& literal = node.literals[0];
  if (!literal.number) return Ordered(node.op, value, std::string_view(literal.text));
  const std::optional<double> number = ParseNumber(value);
  return number && Ordered(node.op, *number, *literal.number);
}

}  // namespace

Filter::Filter() = default;
Filter::Filter(Filter&&) noexcept = default;
Filter& Filter::operator=(Filter&&) noexcept = default;
Filter::~Filter() = default;

Result<Filter> Filter::Parse(const std::string& expression, const std::vector<std::string>& columns) {
  Filter filter;
  if (expression.find_first_not_of(" \t\n") == std::string::npos) return filter;
  Parser parser(expression, columns, &filter.columns_);
  GM_ASSIGN_OR_RETURN(filter.root_, parser.Run());
  return filter;
}

bool Filter::Keep(std::span<const std::string_view> values) const { return root_ == nullptr || Passes(*root_, values); }

}  // namespace gatemill::data
