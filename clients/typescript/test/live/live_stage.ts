import { connect } from 'node:net';
import type { Stage } from './stage.js';

/** The stack that runs, as the environment tells of it. */
export function liveStage(): Stage {
  return {
    address: variable('CLOUTAGENT_TEST_ADDRESS'),
    unsteadyAddress: variable('CLOUTAGENT_TEST_UNSTEADY_ADDRESS'),
    adminKey: variable('CLOUTAGENT_TEST_ADMIN_KEY'),
    control,
  };
}

/** A variable that must be there. */
export function variable(name: string): string {
  const value = process.env[name];
  if (value === undefined) {
    throw new Error(`${name} is not set`);
  }
  return value;
}

function control(command: string, argument = ''): Promise<void> {
  const [host, port] = variable('CLOUTAGENT_TEST_CONTROL').split(':');
  return new Promise((resolve, reject) => {
    let answer = '';
    const socket = connect(Number(port), host, () => socket.write(`${command} ${argument}\n`));
    socket.setEncoding('utf8').on('data', (text: string) => {
      answer += text;
    });
    socket.on('error', reject);
    socket.on('close', () => (answer === 'done\n' ? resolve() : reject(new Error(`${command} failed`))));
  });
}
