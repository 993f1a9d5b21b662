/**
 * Prints what the package exports, with its comments, as JSON: `docs/reference/typescript.md` is made of it.
 *
 * It asks the compiler, whose interface for programs is not yet a stable one; package.json pins the compiler's version.
 */
import * as path from 'node:path';
import { fileURLToPath } from 'node:url';
import { ModifierFlags, SyntaxKind } from 'typescript/unstable/ast';
import * as is from 'typescript/unstable/ast/is';
import { API, SymbolFlags } from 'typescript/unstable/sync';

/**
 * @import {Node, SignatureDeclaration, TypeNode} from 'typescript/unstable/ast'
 * @import {Checker, Project, Symbol as Named} from 'typescript/unstable/sync'
 */

const PACKAGE = new URL('../', import.meta.url);
const ENTRIES = ['index', 'grpc-web'];

/** What is exported by the modules that callers import, by the modules' names. */
class Exports {
  /** @param {Project} project */
  constructor(project) {
    this.project = project;
    /** @type {Checker} */
    this.checker = project.checker;
  }

  /** @param {string} module */
  of(module) {
    const file = this.project.program.getSourceFile(fileURLToPath(new URL(`src/${module}.ts`, PACKAGE)));
    const symbol = file && this.checker.getSymbolAtLocation(file);
    if (symbol === undefined) {
      throw new Error(`there is no module ${module}`);
    }
    const found = this.checker
      .getExportsOfModule(symbol)
      .map((each) => (each.flags & SymbolFlags.Alias ? this.checker.getAliasedSymbol(each) : each));
    return found.map((each) => this.declared(each));
  }

  /** @param {Named} symbol */
  declared(symbol) {
    const node = symbol.declarations[0]?.resolve();
    if (node === undefined) {
      throw new Error(`${symbol.name} is declared nowhere`);
    }
    const module = path.basename(node.getSourceFile().fileName, '.ts');
    const shared = { name: symbol.name, module, position: node.pos, ...this.documented(symbol) };
    if (is.isTypeAliasDeclaration(node)) {
      return { ...shared, kind: 'type', type: textOf(node.type), values: this.values(symbol) };
    }
    if (is.isFunctionDeclaration(node)) {
      return { ...shared, kind: 'function', ...this.called(node) };
    }
    if (is.isClassDeclaration(node) || is.isInterfaceDeclaration(node)) {
      const bases = (node.heritageClauses ?? []).filter(({ token }) => token === SyntaxKind.ExtendsKeyword);
      return {
        ...shared,
        kind: is.isClassDeclaration(node) ? 'class' : 'interface',
        bases: bases.flatMap(({ types }) => types.map((each) => textOf(each.expression))),
        members: node.members.flatMap((member) => this.member(symbol, member)),
      };
    }
    throw new Error(`${symbol.name} is of a kind that the reference has no words for`);
  }

  /**
   * @param {Named} owner
   * @param {Node} node
   */
  member(owner, node) {
    if (is.isConstructorDeclaration(node)) {
      const symbol = [...owner.getMembers()].find(([key]) => String(key).endsWith('constructor'))?.[1];
      const properties = node.parameters.filter((each) => has(each, ModifierFlags.Readonly));
      const made =
        symbol === undefined || this.isInternal(symbol) ? [] : [{ ...this.documented(symbol), ...this.called(node) }];
      return [
        ...made.map((each) => ({ name: 'constructor', kind: 'constructor', ...each })),
        ...properties.flatMap((each) => this.property(each)),
      ];
    }
    if (is.isMethodDeclaration(node) || is.isMethodSignatureDeclaration(node)) {
      const symbol = this.named(node);
      return symbol ? [{ name: symbol.name, kind: 'method', ...this.documented(symbol), ...this.called(node) }] : [];
    }
    return this.property(node);
  }

  /** @param {Node} node A property, an accessor or a parameter. */
  property(node) {
    const symbol = this.named(node);
    if (symbol === undefined) {
      return [];
    }
    const { type } = /** @type {{ type?: TypeNode }} */ (node);
    const text = type ? textOf(type) : this.checker.typeToString(this.checker.getTypeOfSymbolAtLocation(symbol, node));
    const optional = (symbol.flags & SymbolFlags.Optional) !== 0;
    return [{ name: symbol.name, kind: 'property', ...this.documented(symbol), optional, type: text }];
  }

  /**
   * What a member is, unless it is none for callers, or told by the one that it overrides.
   *
   * @param {Node} node
   */
  named(node) {
    const { name } = /** @type {{ name?: Node }} */ (node);
    const symbol = name && is.isIdentifier(name) ? this.checker.getSymbolAtLocation(name) : undefined;
    return symbol && !has(node, ModifierFlags.Override) && !this.isInternal(symbol) ? symbol : undefined;
  }

  /** @param {SignatureDeclaration} node */
  called(node) {
    const parameters = node.parameters.map((each) => {
      // What is taken apart at once is the object of options everywhere.
      const name = is.isIdentifier(each.name) ? each.name.text : 'options';
      const optional = each.questionToken !== undefined || each.initializer !== undefined;
      return { name, optional, type: each.type ? textOf(each.type) : '' };
    });
    return { parameters, returns: node.type ? textOf(node.type) : '' };
  }

  /**
   * The texts that an alias stands for, if it is a choice of those.
   *
   * @param {Named} symbol
   */
  values(symbol) {
    const type = this.checker.getDeclaredTypeOfSymbol(symbol);
    const choices = type.isUnionType() ? type.getTypes() : [];
    return choices.every((each) => each.isStringLiteralType()) ? choices.map((each) => each.value) : [];
  }

  /** @param {Named} symbol */
  documented(symbol) {
    const tags = this.checker.getJsDocTagsOfSymbol(symbol).filter(({ name }) => name === 'throws');
    const throws = tags.map(({ text }) => text ?? '');
    return { comment: this.checker.getDocumentationCommentOfSymbol(symbol), throws };
  }

  /** @param {Named} symbol */
  isInternal(symbol) {
    return this.checker.getJsDocTagsOfSymbol(symbol).some(({ name }) => name === 'internal');
  }
}

/** @param {Node} node */
function textOf(node) {
  return node.getText().replace(/\s+/g, ' ');
}

/**
 * @param {Node} node
 * @param {ModifierFlags} flag
 */
function has(node, flag) {
  const { modifierFlags = ModifierFlags.None } = /** @type {{ modifierFlags?: ModifierFlags }} */ (node);
  return (modifierFlags & flag) !== 0;
}

const api = new API({ cwd: fileURLToPath(PACKAGE) });
try {
  const config = fileURLToPath(new URL('tsconfig.build.json', PACKAGE));
  const project = api.updateSnapshot({ openProjects: [config] }).getProject(config);
  if (project === undefined) {
    throw new Error(`${config} is no project`);
  }
  const found = new Exports(project);
  console.log(JSON.stringify(Object.fromEntries(ENTRIES.map((name) => [name, found.of(name)]))));
} finally {
  api.close();
}
